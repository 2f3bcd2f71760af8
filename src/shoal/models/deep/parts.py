"""Replacing what stands at the end of pipelines and inside meta-estimators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["replaced"]


def replaced(estimator: Any, wrap: Callable[[Any], Any]) -> Any:
    """The estimator with other parts.

    Args:
        estimator: An estimator whose steps or inner estimators are looked through; changed in
            place.
        wrap: What stands for a part; None leaves it.
    """
    found = wrap(estimator)
    if found is not None:
        return found
    if isinstance(estimator, type) or not hasattr(estimator, "__dict__"):
        return estimator
    held = vars(estimator)
    if isinstance(held.get("steps"), list):
        estimator.steps = [(name, replaced(step, wrap)) for name, step in estimator.steps]
    for name in ("regressor", "estimator", "base_estimator"):
        if name in held:
            setattr(estimator, name, replaced(held[name], wrap))
    return estimator

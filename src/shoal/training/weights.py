"""Rows that count more or less than others: ``sample_weight``, as scikit-learn calls it."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["fit_plainly", "takes_weights"]


def fit_plainly(estimator: Any, features: Any, target: Any, weights: Any = None) -> None:
    """``estimator.fit(features, target)``, with each row's weight where there are weights.

    In a pipeline the weights are the last step's; what comes before it sees all rows alike, as
    scikit-learn has it unless its metadata routing is set.

    Args:
        estimator: The unfitted estimator.
        features: Shape (rows, features).
        target: Shape (rows,).
        weights: Shape (rows,); None when all rows count alike.
    """
    if weights is None:
        estimator.fit(features, target)
    elif hasattr(estimator, "steps"):
        estimator.fit(features, target, **{f"{estimator.steps[-1][0]}__sample_weight": weights})
    else:
        estimator.fit(features, target, sample_weight=weights)


def takes_weights(estimator: Any) -> bool:
    """Whether an estimator's fit, or that of a pipeline's last step, takes weights of rows."""
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    parameters = inspect.signature(estimator.fit).parameters
    # A wrapper hands whatever it is given on to the estimator inside.
    inside = getattr(estimator, "regressor", None) or getattr(estimator, "estimator", None)
    if "sample_weight" in parameters or inside is None:
        return "sample_weight" in parameters
    kinds = {p.kind for p in parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds and takes_weights(inside)

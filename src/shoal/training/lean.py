"""The same fits with less ceremony.

Around a small fit, most of scikit-learn's time goes into checks of what the kernel already knows.
These short cuts give the same numbers, bit for bit; where they do not apply, the estimator's own
methods run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from shoal.training.weights import fit_plainly

__all__ = ["lean_fit", "lean_predict", "quick_array_checks"]


def quick_array_checks() -> None:
    """Answer at once, in this process, whether a numpy array is a data frame: it never is.

    scikit-learn 1.9 asks narwhals of each array it is given, several times, which takes longer
    than scaling 500 rows. For worker processes only: it changes these libraries' modules.
    """
    from sklearn.utils import validation

    frames = getattr(getattr(validation, "nw", None), "dependencies", None)
    for module, name in (
        (frames, "is_into_dataframe"),
        (frames, "is_into_series"),
        (validation, "_nw_into_df_or_series"),
    ):
        asked = getattr(module, name, None)
        if asked is not None:
            setattr(module, name, _except_arrays(asked))


def _except_arrays(asked: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def is_frame(values: Any) -> bool:
        return False if type(values) is np.ndarray else asked(values)

    return is_frame


def lean_fit(estimator: Any, features: Any, target: Any, weights: Any = None) -> None:
    """What `fit_plainly` does; a plain pipeline step by step."""
    steps = _plain_steps(estimator)
    if steps is None:
        fit_plainly(estimator, features, target, weights)
        return
    for step in steps[:-1]:
        features = step.fit_transform(features, target)
    fit_plainly(steps[-1], features, target, weights)


def lean_predict(estimator: Any, features: Any) -> Any:
    """``estimator.predict(features)``; a plain pipeline step by step."""
    steps = _plain_steps(estimator)
    if steps is None:
        return estimator.predict(features)
    for step in steps[:-1]:
        features = step.transform(features)
    return steps[-1].predict(features)


def _plain_steps(estimator: Any) -> list[Any] | None:
    from sklearn.pipeline import Pipeline

    if type(estimator) is not Pipeline or estimator.memory is not None or estimator.verbose:
        return None
    if estimator.transform_input is not None or hasattr(estimator, "_skl_callbacks"):
        return None
    steps = [step for _, step in estimator.steps if step is not None and step != "passthrough"]
    if len(steps) != len(estimator.steps) or any(hasattr(s, "_skl_callbacks") for s in steps):
        return None
    if not all(hasattr(step, "fit_transform") for step in steps[:-1]):
        return None
    return steps

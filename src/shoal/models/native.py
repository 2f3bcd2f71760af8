"""Boosters in their own file formats: XGBoost's UBJSON and LightGBM's text."""

from __future__ import annotations

import re
from typing import Any

from shoal.errors import ModelError

__all__ = ["dump_native", "is_native", "load_native"]


def is_native(estimator: Any) -> bool:
    """Whether the estimator is an XGBoost or LightGBM scikit-learn estimator."""
    library = type(estimator).__module__.split(".", 1)[0]
    return (library == "xgboost" and hasattr(estimator, "get_booster")) or (
        library == "lightgbm" and hasattr(estimator, "booster_")
    )


def dump_native(estimator: Any) -> bytes:
    """The fitted booster in its library's own format."""
    if type(estimator).__module__.startswith("xgboost"):
        return bytes(estimator.get_booster().save_raw("ubj"))
    if not _codes(getattr(estimator, "classes_", None)):
        raise ModelError(
            "A LightGBM classifier is stored with class codes 0, 1, 2, ...; found "
            f"{estimator.classes_.tolist()[:5]}.",
            hint="encode the target as codes before fitting",
        )
    return str(estimator.booster_.model_to_string()).encode()


def load_native(cls: type[Any], params: dict[str, Any], state: bytes) -> Any:
    """The fitted estimator.

    Args:
        cls: The estimator's class.
        params: Its constructor's arguments.
        state: What `dump_native` gave.
    """
    estimator = cls(**params)
    if cls.__module__.startswith("xgboost"):
        estimator.load_model(bytearray(state))
        return estimator
    import lightgbm
    from sklearn.preprocessing import LabelEncoder

    booster = lightgbm.Booster(model_str=state.decode())
    names = booster.feature_name()
    estimator._Booster = booster
    estimator._n_features = estimator._n_features_in = len(names)
    estimator.fitted_ = True
    # "objective=multiclass num_class:3"; a custom one is not in the text.
    said = re.search(rb"^objective=(\S+)", state, re.MULTILINE)
    estimator._objective = said[1].decode() if said else None
    if isinstance(estimator, lightgbm.LGBMClassifier):
        import numpy as np

        per_iteration = booster.num_model_per_iteration()
        count = per_iteration if per_iteration > 1 else 2
        estimator._n_classes = count
        estimator._classes = np.arange(count)
        estimator._le = LabelEncoder().fit(estimator._classes)
    return estimator


def _codes(classes: Any) -> bool:
    return classes is None or classes.tolist() == list(range(len(classes)))

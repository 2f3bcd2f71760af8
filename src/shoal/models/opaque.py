"""Estimators with compiled internals, stored by skops; and, where a person trusts it, by pickle."""

from __future__ import annotations

from typing import Any

from shoal.errors import ModelError
from shoal.models.allowed import SKOPS_INTERNALS

__all__ = ["dump_pickle", "dump_skops", "load_pickle", "load_skops"]


def dump_skops(estimator: Any) -> bytes:
    """The estimator as skops bytes that `load_skops` will open.

    Raises:
        ModelError: It holds types that are not on the allow-list.
    """
    import skops.io

    name = type(estimator).__name__
    try:
        data = bytes(skops.io.dumps(estimator))
    except Exception as error:
        raise ModelError(f"{name} cannot be stored without pickle: {error}") from error
    refused = _refused(data)
    if refused:
        raise ModelError(
            f"{name} cannot be stored without pickle: it holds {', '.join(refused)}.",
            hint="use estimators of scikit-learn, XGBoost or LightGBM inside it",
        )
    return data


def dump_pickle(estimator: Any) -> bytes:
    """The estimator as pickle bytes, classes of the person's own included.

    Raises:
        ModelError: Not even pickle can store it.
    """
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(estimator))
    except Exception as error:
        raise ModelError(
            f"{type(estimator).__name__} cannot be stored even with pickle: {error}"
        ) from error


def load_pickle(data: bytes) -> Any:
    """The estimator. This runs whatever code the bytes ask for: only for those that are trusted.

    Raises:
        ModelError: The bytes are damaged, or need a class that is not here.
    """
    import pickle

    try:
        return pickle.loads(data)  # noqa: S301 (as above)
    except Exception as error:
        raise ModelError(f"The stored model cannot be unpickled: {error}") from error


def load_skops(data: bytes) -> Any:
    """The estimator.

    Raises:
        ModelError: The bytes are damaged, or name a type that is not on the allow-list. What
            the bytes themselves propose to trust is not believed.
    """
    import skops.io

    try:
        refused = _refused(data)
        if not refused:
            trusted = skops.io.get_untrusted_types(data=data)
            return skops.io.loads(data, trusted=trusted)
    except Exception as error:
        raise ModelError(f"The stored model is damaged: {error}") from error
    raise ModelError(f"The stored model wants to build {', '.join(refused)}: not allowed.")


def _refused(data: bytes) -> list[str]:
    import skops.io

    untrusted = skops.io.get_untrusted_types(data=data)
    return [
        name
        for name in untrusted
        if not any(
            name.startswith(allowed) if allowed.endswith(".") else name == allowed
            for allowed in SKOPS_INTERNALS
        )
    ]

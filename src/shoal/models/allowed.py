"""Which classes may be built when a stored model is opened. Everything else is refused."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection
from typing import Any

from shoal.errors import ModelError
from shoal.models.code import RecordedCode

__all__ = [
    "SKOPS_INTERNALS",
    "is_part",
    "is_reduced",
    "missing_library",
    "resolve_class",
    "trusted_module",
]

# Whole libraries: but only their estimator classes, see resolve_class.
_LIBRARIES = ("sklearn", "xgboost", "lightgbm", "skorch")

# Layers and losses: what they are built of is checked node by node.
_LAYERS = ("torch.nn.",)

# Our own estimators.
_OWN = ("shoal.forecast.", "shoal.models.deep.")

# Fitted internals of scikit-learn estimators that skops does not trust by itself: plain data
# holders in compiled modules. Everything skops trusts itself is public estimators, dtypes, ufuncs.
SKOPS_INTERNALS = (
    "sklearn.tree._tree.",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.neighbors._kd_tree.",
    "sklearn.neighbors._ball_tree.",
    "sklearn.metrics._dist_metrics.",
    "sklearn._loss.",
    "sklearn.linear_model._sgd_fast.",
    "sklearn.neural_network._stochastic_optimizers.",
    "sklearn.utils._bunch.Bunch",
)

# Internals that are nothing but their attributes.
_PARTS = (
    "sklearn._loss.link.",
    "sklearn._loss.loss.",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.gaussian_process.kernels.",
    "sklearn.neural_network._stochastic_optimizers.",
)

# Compiled internals that are rebuilt from plain arguments and check the state that they are given.
_REDUCED = ("sklearn._loss._loss.", "sklearn.linear_model._sgd_fast.", "sklearn.tree._tree.Tree")


def is_part(path: str) -> bool:
    """Whether a class is an internal of scikit-learn that its attributes rebuild."""
    return _listed(path, _PARTS)


def is_reduced(path: str) -> bool:
    """Whether a class is an internal of scikit-learn that arguments and a state rebuild."""
    return _listed(path, _REDUCED)


def _listed(path: str, allowed: tuple[str, ...]) -> bool:
    # A module's own classes only, not what lies deeper.
    module = path.rpartition(".")[0] + "."
    return path in allowed or module in allowed


def trusted_module(module: str, modules: Collection[str] = ()) -> bool:
    """Whether classes of a module may be built.

    Args:
        module: The module's full name.
        modules: Modules that the caller trusts besides the known libraries.
    """
    known = module.split(".", 1)[0] in _LIBRARIES or module.startswith((*_OWN, *_LAYERS))
    return known or module in modules


def resolve_class(
    path: str, modules: Collection[str] = (), code: RecordedCode | None = None
) -> type[Any]:
    """The estimator class of that full name.

    Args:
        path: Module and class name, such as ``sklearn.linear_model._ridge.Ridge``.
        modules: Modules that the caller trusts besides the known libraries.
        code: Source of some of them, which is then taken instead of what can be imported.

    Raises:
        ModelError: The module is not allowed, is missing, or holds no such estimator class.
    """
    module, _, name = path.rpartition(".")
    if not trusted_module(module, modules):
        raise ModelError(
            f"The stored model wants to build {path}, from a module that is not allowed.",
            hint=f"if you trust it, name its module: export SHOAL_TRUSTED_MODULES={module} "
            f"(or in Python: Fleet.open(folder, modules=[{module!r}]))",
        )
    try:
        if code is not None and module in modules and module in code:
            found = code.find(module, name)
        else:
            found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ModelError(
            f"The stored model needs {path}, which cannot be imported: {error}.",
            hint=f"install it: pip install {_package(module)}",
        ) from error
    internal = is_part(path) or is_reduced(path)
    if isinstance(found, type) and _is_layer(found):
        return found
    if not isinstance(found, type) or not (internal or is_estimator_class(found)):
        raise ModelError(f"The stored model wants to build {path}, which is no estimator class.")
    if internal and found.__module__ != module:
        raise ModelError(f"The stored model wants to build {path}, which is not of {module}.")
    return found


def is_estimator_class(cls: type[Any]) -> bool:
    """Whether a class is a scikit-learn estimator (or has its methods)."""
    from sklearn.base import BaseEstimator

    return issubclass(cls, BaseEstimator) or all(
        callable(getattr(cls, a, None)) for a in ("fit", "get_params", "set_params")
    )


def missing_library(extra: str, error: ImportError) -> ModelError:
    """What to say when a stored network needs a library that is not here.

    Args:
        extra: Shoal's extra that brings it.
        error: What importing it raised.
    """
    return ModelError(
        f"The stored model needs {error.name or extra}, which cannot be imported: {error}.",
        hint=f"install it: pip install 'shoal[{extra}]'",
    )


def _is_layer(cls: type[Any]) -> bool:
    torch, keras = sys.modules.get("torch"), sys.modules.get("keras")
    return (torch is not None and issubclass(cls, torch.nn.Module)) or (
        keras is not None and issubclass(cls, keras.Layer)
    )


def _package(module: str) -> str:
    top = module.split(".", 1)[0]
    extra = {"torch": "'shoal[torch]'", "skorch": "'shoal[torch]'", "keras": "'shoal[tensorflow]'"}
    return {"sklearn": "scikit-learn", **extra}.get(top, top)

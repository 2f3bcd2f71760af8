"""Single models that MLflow logged, loaded for serving; never by running code that is not trusted.

Loading most of MLflow's flavors unpickles something, or imports classes that the artifact names.
Four ways are data: XGBoost's own files, LightGBM's text, Keras' archive without custom objects,
and skops with Shoal's allow-list (MLflow takes its from the model itself). Everything else has to
be trusted by the person who starts the server.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.errors import ModelError
from shoal.tracking.quiet import quietly

if TYPE_CHECKING:
    from shoal.tracking.reading import Recorded

__all__ = ["Whole", "load_whole"]

_METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function")


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A loaded model.

    Attributes:
        kind: MLflow's flavor: ``sklearn``, ``pytorch``, ....
        predict: From a pandas data frame of the signature's columns (an array where the signature
            is a tensor) to an array or a data frame of as many rows.
        estimator: What the library itself calls the model.
    """

    kind: str
    predict: Callable[[Any], Any]
    estimator: Any


def load_whole(recorded: Recorded, *, trust_pickle: bool = False) -> Whole:
    """Loads a version of any of MLflow's flavors that predict.

    Args:
        recorded: The version.
        trust_pickle: Unpickle what was pickled, and run code that came with the model.

    Raises:
        ModelError: It is pickled and not trusted, or it cannot be loaded.
    """
    function = recorded.flavors.get("python_function")
    if function is None:
        raise ModelError(f"{recorded.folder} has no flavor that predicts: python_function.")
    module = str(function.get("loader_module", ""))
    kind = module.removeprefix("mlflow.").partition(".")[0]
    risk = _risk(recorded, kind)
    if risk and not trust_pickle:
        raise ModelError(
            f"The model {risk}: opening it runs whatever code it holds.",
            hint="if you trust who made it: shoal serve --trust-pickle",
        )
    if kind == "sklearn" and not risk:
        return _from_skops(recorded)
    with quietly(f"load {recorded.folder}"):
        import mlflow.pyfunc

        try:
            loaded = mlflow.pyfunc.load_model(str(recorded.folder))
        except ImportError as error:
            raise ModelError(
                f"The model needs a library that is not here: {error}.",
                hint=f"pip install {error.name}" if error.name else None,
            ) from error
        raw = getattr(loaded, "get_raw_model", lambda: None)
        return Whole(kind=kind, predict=loaded.predict, estimator=_quiet(raw))


def _quiet(raw: Callable[[], Any]) -> Any:
    try:
        return raw()
    except Exception:  # noqa: BLE001 - flavors that have none say so in their own ways
        return None


def _risk(recorded: Recorded, kind: str) -> str | None:
    """What about loading a version runs code; None where it is data alone."""
    function = recorded.flavors["python_function"]
    if function.get("code"):
        return "comes with code"
    flavor = recorded.flavors.get(kind, {})
    own = str(flavor.get("model_class", ""))
    files = {path.name: path for path in recorded.folder.rglob("*") if path.is_file()}
    pickled = next((n for n in files if n.endswith((".pkl", ".pickle", ".cloudpickle"))), None)
    if pickled is not None:
        return f"is pickled ({pickled})"
    if kind == "xgboost" and own.startswith("xgboost."):
        return None
    if kind == "lightgbm" and own in ("", "lightgbm.basic.Booster"):
        return None
    if kind == "sklearn" and flavor.get("serialization_format") == "skops":
        return None
    if kind in ("keras", "tensorflow") and any(name.endswith(".keras") for name in files):
        return None
    return f"is of a kind ({kind or 'unknown'}) whose files can hold code"


def _from_skops(recorded: Recorded) -> Whole:
    from shoal.models.opaque import load_skops

    function, flavor = recorded.flavors["python_function"], recorded.flavors["sklearn"]
    method = str(function.get("predict_fn", "predict"))
    if method not in _METHODS:
        raise ModelError(f"The model predicts by '{method}'; known: {', '.join(_METHODS)}.")
    where = recorded.folder / str(flavor.get("pickled_model", "model.skops"))
    if not where.resolve().is_relative_to(recorded.folder.resolve()):
        raise ModelError(f"The model's file {where} is outside of its folder.")
    try:
        estimator = load_skops(where.read_bytes())
    except OSError as error:
        raise ModelError(f"{where} cannot be read: {error}") from error
    return Whole(kind="sklearn", predict=getattr(estimator, method), estimator=estimator)

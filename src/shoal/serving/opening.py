"""How versions are opened for serving."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.errors import ShoalError, Unavailable
from shoal.serving.served import ServedModel

if TYPE_CHECKING:
    import numpy as np

    from shoal.models import Fleet
    from shoal.serving.onnx import OnnxEstimator
    from shoal.tracking import Recorded, Whole

__all__ = ["Opening"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Opens what a registry holds.

    Args:
        trust_pickle: Unpickle what was pickled, which runs whatever code it holds.
        memory: About how many bytes the decoded members of one version may take.
        onnx: Predict with ONNX Runtime where it is proven to say the same.
    """

    trust_pickle: bool = False
    memory: int = 256 * 2**20
    onnx: bool = False

    def open(self, name: str, number: int, recorded: Recorded) -> ServedModel:
        """Opens one version.

        Raises:
            ModelError: The artifact is damaged, or pickled and not trusted.
            TrackingError: It is of a kind that cannot be served.
        """
        if recorded.fleet is None:
            return self._single(name, number, recorded)
        from shoal.models.fleet import Fleet

        fleet = Fleet.open(recorded.fleet, memory=self.memory, trust_pickle=self.trust_pickle)
        if self.onnx:
            self._faster(f"{name}/{number}", fleet, recorded)
        return ServedModel(name=name, version=number, fleet=fleet, inputs=recorded.inputs)

    def _single(self, name: str, number: int, recorded: Recorded) -> ServedModel:
        """A model that Shoal did not make."""
        from shoal.serving.single import Single, columns_of
        from shoal.tracking import load_whole

        inputs, dtype = columns_of(recorded)
        whole = load_whole(recorded, trust_pickle=self.trust_pickle)
        predict = whole.predict
        if self.onnx:
            try:
                example = _example(recorded, list(inputs))
                predict = _proven(f"{name}/{number}", _own(whole), example).predict
            except ShoalError as error:
                _log.warning("%s/%d is served without ONNX: %s", name, number, error.message)
        fleet = Single(name, number, inputs=inputs, predict=predict, dtype=dtype)
        return ServedModel(name=name, version=number, fleet=fleet, inputs=inputs)

    def _faster(self, what: str, fleet: Fleet, recorded: Recorded) -> None:
        """Puts ONNX Runtime in the place of a fleet's only member."""
        from shoal.models.columns import accepts_nan

        try:
            if fleet.header.by:
                raise Unavailable("a fleet of many members keeps them as they are")
            estimator = fleet.estimator("[]")
            features = [feature.name for feature in fleet.header.features]
            gaps = accepts_nan(estimator)
            example = _example(recorded, features)
            made = _proven(what, estimator, example, gaps=gaps)
            fleet.stand_in("[]", made, gaps=gaps)
        except ShoalError as error:
            _log.warning("%s is served without ONNX: %s", what, error.message)


def _own(whole: Whole) -> Any:
    """The library's estimator, where its ``predict`` is what the model predicts by."""
    if whole.kind not in ("sklearn", "xgboost", "lightgbm") or whole.estimator is None:
        raise Unavailable(f"models of the flavor {whole.kind} are kept as they are")
    if getattr(whole.predict, "__name__", "predict") != "predict":
        raise Unavailable("it predicts by another method than predict")
    return whole.estimator


def _proven(
    what: str, estimator: Any, example: np.ndarray[Any, Any], *, gaps: bool = False
) -> OnnxEstimator:
    try:
        from shoal.serving.onnx import proven

        made, difference = proven(estimator, example, gaps=gaps)
    except ImportError as error:
        raise Unavailable(f"{error}", hint="pip install 'shoal[onnx]'") from error
    _log.warning("%s is served by ONNX Runtime, equal to %.1g on sample rows", what, difference)
    return made


def _example(recorded: Recorded, columns: list[str]) -> np.ndarray[Any, Any]:
    """The input example that a version was logged with."""
    import numpy as np

    path = recorded.folder / "input_example.json"
    try:
        content = json.loads(path.read_text())
        if isinstance(content, dict) and "columns" in content:
            at = [[str(name) for name in content["columns"]].index(name) for name in columns]
            rows = [[row[i] for i in at] for row in content["data"]]
        else:
            rows = content["inputs"] if isinstance(content, dict) else content
        found = np.array(rows, dtype=np.float64)
        if found.ndim != 2 or found.shape[1] != len(columns):
            raise Unavailable(f"its input example has the shape {found.shape}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"it has no input example to prove it on ({error})") from error
    return found

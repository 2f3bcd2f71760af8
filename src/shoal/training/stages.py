"""A fit that is looked at while it goes on: what its model predicts after a share of its rounds.

Who is to look stands in `STAGES` while a segment is measured. Boosters of XGBoost and LightGBM are
looked at after shares of their trees, nets of PyTorch and Keras after shares of their epochs; other
estimators fit in one piece. Looking changes nothing of what is fitted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from shoal.training.measured import Window

__all__ = ["PERCENTAGES", "STAGES", "Hopeless", "Shown", "Stages"]

Array = np.ndarray[Any, Any]

# Of an estimator's rounds.
PERCENTAGES = (12, 25, 50)
# Fewer rounds than these are not worth it.
_FEWEST = 8


class Hopeless(Exception):
    """What a fit ends with when its trial is pruned."""


@dataclass(kw_only=True)
class Stages:
    """Looks at the fits of one trial.

    Attributes:
        value: The metric over the held-out rows; None when it cannot be told.
        hopeless: Whether to give up after a percentage of the rounds with this value.
        steps: The values so far, by percentage.
        pruned: It was given up.
    """

    value: Callable[[Window], float | None]
    hopeless: Callable[[int, float], bool]
    steps: dict[int, float] = field(default_factory=dict)
    pruned: bool = False

    def watch(self, estimator: Any, window: Callable[[Any], Window]) -> None:
        """Has an unfitted estimator tell of its rounds, if it has any.

        Args:
            estimator: It is fitted next; the last step of a pipeline counts.
            window: What a model says of the held-out rows.
        """
        before, last = [], estimator
        while hasattr(last, "steps"):
            before += [step for _, step in last.steps[:-1]]
            last = last.steps[-1][1]
        shown = Shown(before, last)
        kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(last).__mro__}
        for kind, watch in _WATCHERS.items():
            if kind in kinds:
                watch(last, lambda done, total: self._look(shown, window, done, total))
                return

    def _look(self, shown: Shown, window: Callable[[Any], Window], done: int, total: int) -> None:
        for percent in PERCENTAGES if total >= _FEWEST else ():
            if done != -(-total * percent // 100):
                continue
            value = self.value(window(shown))
            if value is None:
                return
            self.steps[percent] = value
            if self.hopeless(percent, value):
                self.pruned = True
                raise Hopeless(f"pruned after {done} of {total} rounds")


class Shown:
    """A half-fitted estimator that predicts, behind the fitted steps before it.

    Args:
        before: Fitted steps.
        last: The estimator.
    """

    def __init__(self, before: list[Any], last: Any) -> None:
        self._before, self._last = before, last

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._last.__dict__.get("_shown", self._last), name)
        if name not in ("predict", "predict_proba"):
            return found
        return lambda features: found(self._through(features))

    def _through(self, features: Array) -> Any:
        for step in self._before:
            if step not in (None, "passthrough"):
                features = step.transform(features)
        return features


Told = Callable[[int, int], None]


def _xgboost(estimator: Any, told: Told) -> None:
    from xgboost.callback import TrainingCallback

    total = int(estimator.get_num_boosting_rounds())

    class Look(TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            _ = evals_log
            estimator._Booster = model
            told(epoch + 1, total)
            return False

    estimator.set_params(callbacks=[*(estimator.callbacks or []), Look()])


def _lightgbm(estimator: Any, told: Told) -> None:
    fit = estimator.fit

    def look(env: Any) -> None:
        # The estimator that predicts is a copy: the one that is fitted knows nothing of it.
        half = copy.copy(estimator)
        half.__dict__.pop("fit", None)
        half._Booster, half.fitted_ = env.model, True
        estimator.__dict__["_shown"] = half
        told(env.iteration + 1 - env.begin_iteration, env.end_iteration - env.begin_iteration)

    def watched(*given: Any, callbacks: Any = None, **more: Any) -> Any:
        try:
            return fit(*given, callbacks=[*(callbacks or []), look], **more)
        finally:
            estimator.__dict__.pop("_shown", None)

    estimator.fit = watched


def _torch(estimator: Any, told: Told) -> None:
    from skorch.callbacks import Callback

    class Look(Callback):  # type: ignore[misc]
        def on_epoch_end(self, net: Any, **_: Any) -> None:
            told(len(net.history), int(net.max_epochs))

    net = estimator.net
    given = net.callbacks if isinstance(net.callbacks, list) else []
    if net.callbacks != "disable":
        net.set_params(callbacks=[*given, ("shoal_stages", Look())])


def _keras(estimator: Any, told: Told) -> None:
    import keras

    class Look(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            _ = logs
            told(epoch + 1, int(self.params.get("epochs", 0)))

    given = dict(estimator.wrapper.fit_kwargs or {})
    given["callbacks"] = [*(given.get("callbacks") or []), Look()]
    estimator.wrapper.fit_kwargs = given


_WATCHERS: dict[str, Callable[[Any, Told], None]] = {
    "xgboost.sklearn.XGBModel": _xgboost,
    "lightgbm.sklearn.LGBMModel": _lightgbm,
    "shoal.models.deep.estimators._Net": _torch,
    "shoal.models.deep.keras_estimators._Keras": _keras,
}

STAGES: ContextVar[Stages | None] = ContextVar("shoal_stages", default=None)

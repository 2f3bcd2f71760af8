"""Studies: ask for a point, tell how good it was; by Optuna or by Hyperopt."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from shoal.training.search.space import Point, Space
from shoal.training.search.trials import Trial

__all__ = ["Study", "new_study", "quiet", "seed_of", "shared_points"]


class Study(Protocol):
    """One search of one scope."""

    def replay(self, trials: Iterable[Trial]) -> None:
        """Take trials that were made before, in their order."""
        ...

    def ask(self) -> Point | None:
        """The next point; None when the sampler has no more."""
        ...

    def ask_many(self, count: int) -> list[Point]:
        """The next points, chosen without knowing each other; fewer when there are no more."""
        ...

    def tell_many(self, ends: list[Trial]) -> None:
        """How the trials asked for together ended, in their order."""
        ...

    def take(self, point: Point) -> None:
        """Have a point that was asked for elsewhere as the trial asked for last."""
        ...

    def hopeless(self, step: int, value: float) -> bool:
        """Whether the trial asked for last should be pruned after a step with this value."""
        ...

    def tell(self, state: str, value: float | None) -> None:
        """How the trial asked for last ended."""
        ...


def new_study(space: Space, *, greater: bool, seed: int, scope: str) -> Study:
    """A study in memory.

    Args:
        space: What to choose from.
        greater: Whether a greater value is better.
        seed: The declared seed.
        scope: The key of what is searched for: each draws other numbers.
    """
    kind = _HyperoptStudy if space.search.is_hyperopt else _OptunaStudy
    return kind(space, greater=greater, seed=seed, scope=scope)


def seed_of(seed: int, scope: str, number: int) -> int:
    """The seed of one trial.

    With a seed for each trial a search that goes on from recorded trials chooses what it would
    have chosen without the break.
    """
    text = json.dumps([seed, scope, number]).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") >> 1


def shared_points(space: Space, *, seed: int, trials: int) -> list[Point]:
    """Different random points, from so many draws; more draws give the same ones first."""
    from optuna.samplers import RandomSampler

    study = _OptunaStudy(space, greater=False, seed=seed, scope="", sampler=RandomSampler)
    found: dict[str, Point] = {}
    for _ in range(trials):
        point = study.ask()
        assert point is not None
        study.tell("failed", None)
        found.setdefault(json.dumps(point), point)
    return list(found.values())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps Optuna from telling each study's start on standard error."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


class _OptunaStudy:
    def __init__(
        self, space: Space, *, greater: bool, seed: int, scope: str, sampler: Any = None
    ) -> None:
        import optuna

        self._space, self._seed, self._scope = space, seed, scope
        given: Any = sampler or space.search.sampler or optuna.samplers.TPESampler
        own = isinstance(given, optuna.samplers.BaseSampler)
        # A sampler of each study's own: it may keep what it saw.
        fixed = copy.deepcopy(given) if own else None
        self._sampler = (lambda _: fixed) if own else given
        self._study = optuna.create_study(
            # Some pruners go by the study's name.
            study_name=f"shoal-{seed}-{scope}",
            direction="maximize" if greater else "minimize",
            sampler=fixed or _seeded(given, 0),
            pruner=space.search.pruner or optuna.pruners.MedianPruner(),
        )
        self._trial: Any = None
        self._round: list[Any] = []
        self._over = False
        self._count = 0

    @property
    def study(self) -> Any:
        """Optuna's own."""
        return self._study

    def replay(self, trials: Iterable[Trial]) -> None:
        from optuna.trial import TrialState, create_trial

        states = {
            "complete": TrialState.COMPLETE,
            "pruned": TrialState.PRUNED,
            "failed": TrialState.FAIL,
        }
        for trial in trials:
            point = json.loads(trial.point)
            self._study.add_trial(
                create_trial(
                    state=states[trial.state],
                    value=None if trial.state == "failed" else trial.value,
                    params=point,
                    distributions=self._space.distributions(point),
                    intermediate_values=dict(trial.steps),
                )
            )
            self._count += 1

    def ask(self) -> Point | None:
        number = self._count + len(self._round)
        self._study.sampler = _seeded(self._sampler, seed_of(self._seed, self._scope, number))
        exhausted = getattr(self._study.sampler, "is_exhausted", None)
        if self._over or (self._count and exhausted and exhausted(self._study)):
            return None
        self._trial = self._study.ask(self._space.fixed)
        return self._space.suggest(self._trial)

    def ask_many(self, count: int) -> list[Point]:
        found: list[Point] = []
        while len(found) < count and (point := self.ask()) is not None:
            found.append(point)
            self._round.append(self._trial)
        return found

    def tell_many(self, ends: list[Trial]) -> None:
        trials, self._round = self._round, []
        for self._trial, end in zip(trials, ends, strict=True):
            for step, value in end.steps.items():
                self._trial.report(value, step)
            self.tell(end.state, end.value)

    def take(self, point: Point) -> None:
        self._study.enqueue_trial(point)
        self._trial = self._study.ask(self._space.distributions(point))

    def hopeless(self, step: int, value: float) -> bool:
        self._trial.report(value, step)
        return bool(self._trial.should_prune())

    def tell(self, state: str, value: float | None) -> None:
        from optuna.trial import TrialState

        self._count += 1
        told = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}.get(state)
        try:
            self._study.tell(self._trial, value if told is None else None, state=told)
        except RuntimeError as error:
            # A sampler that has tried everything stops the loop that it believes to be in; the
            # trial's state is kept all the same.
            if "Study.stop" not in str(error):
                raise
            self._over = True


def _seeded(sampler: Any, seed: int) -> Any:
    return sampler(seed=seed) if isinstance(sampler, type) else sampler(seed)


class _HyperoptStudy:
    def __init__(self, space: Space, *, greater: bool, seed: int, scope: str) -> None:
        from hyperopt import Trials, tpe
        from hyperopt.base import Domain

        self._space, self._seed, self._scope = space, seed, scope
        self._sign = -1.0 if greater else 1.0
        self._algorithm = space.search.sampler or tpe.suggest
        self._domain = Domain(lambda _: None, space.search.space)
        self._trials = Trials()
        self._round: list[int] = []
        self._at = -1
        self._count = 0

    def replay(self, trials: Iterable[Trial]) -> None:
        for trial in trials:
            number = self._trials.new_trial_ids(1)[0]
            point = json.loads(trial.point)
            labels = {label: [point[label]] if label in point else [] for label in self._labels()}
            misc = {
                "tid": number,
                "cmd": self._domain.cmd,
                "workdir": self._domain.workdir,
                "idxs": {label: [number] * len(values) for label, values in labels.items()},
                "vals": labels,
            }
            docs = self._trials.new_trial_docs([number], [None], [{"status": "new"}], [misc])
            self._trials.insert_trial_docs(docs)
            self._trials.refresh()
            self.tell(trial.state, trial.value)

    def _labels(self) -> list[str]:
        return list(self._domain.params)

    def ask(self) -> Point | None:
        numbers = self._trials.new_trial_ids(1)
        self._trials.refresh()
        seed = seed_of(self._seed, self._scope, self._count + len(self._round))
        docs = self._algorithm(numbers, self._domain, self._trials, seed)
        if not docs:
            return None
        self._trials.insert_trial_docs(docs)
        self._trials.refresh()
        chosen = docs[0]["misc"]["vals"]
        return {label: _number(values[0]) for label, values in chosen.items() if len(values)}

    def ask_many(self, count: int) -> list[Point]:
        found: list[Point] = []
        while len(found) < count and (point := self.ask()) is not None:
            found.append(point)
            self._round.append(len(self._trials._dynamic_trials) - 1)
        return found

    def tell_many(self, ends: list[Trial]) -> None:
        places, self._round = self._round, []
        for self._at, end in zip(places, ends, strict=True):
            self.tell(end.state, end.value)

    def take(self, point: Point) -> None:
        """Nothing is asked of it: Hyperopt prunes nothing."""

    def hopeless(self, step: int, value: float) -> bool:  # noqa: ARG002  (Hyperopt prunes nothing)
        return False

    def tell(self, state: str, value: float | None) -> None:
        from hyperopt.base import JOB_STATE_DONE

        self._count += 1
        result: dict[str, Any] = {"status": "fail"}
        if state == "complete" and value is not None:
            result = {"status": "ok", "loss": self._sign * value}
        # The document that Trials keeps is its own copy.
        self._trials._dynamic_trials[self._at].update(state=JOB_STATE_DONE, result=result)
        self._trials.refresh()


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value

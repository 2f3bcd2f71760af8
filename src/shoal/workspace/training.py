"""One model's training: fitted, tracked, registered, or found to be current."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shoal.errors import ShoalError, Unavailable
from shoal.workspace.pending import record_pending, waiting
from shoal.workspace.promotion import place
from shoal.workspace.report import ModelReport
from shoal.workspace.search import find_parameters, found_report, with_search

if TYPE_CHECKING:
    from shoal.models import ModelDeclaration, TrainedFleet
    from shoal.tracking import ModelVersion
    from shoal.training import Nursery
    from shoal.workspace.opened import Opened

__all__ = ["Scope", "last_training", "train_model"]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Which segments to fit; by default those that changed.

    Attributes:
        everything: All.
        failed: Also those that failed.
        segments: These alone.
        affected: Keys of members that learned from bad rows: these alone; None for no such.
        batched: Segments may be fitted many at once; False fits one after the other.
        trials: Trials of a declared search; None for the declared number.
    """

    everything: bool = False
    failed: bool = False
    segments: tuple[str, ...] = ()
    affected: frozenset[str] | None = None
    batched: bool = True
    trials: int | None = None


def train_model(
    space: Opened,
    declaration: ModelDeclaration,
    reason: str,
    alias: str | None,
    scope: Scope,
    *,
    promoting: bool = False,
) -> ModelReport:
    """Trains one model on what changed since its newest registered version.

    When nothing changed, nothing is fitted and no run is made; the alias goes to that version,
    unless a person promoted or rolled back another.

    Args:
        space: The workspace.
        declaration: The model.
        reason: Why it is trained.
        alias: Alias that the version gets, or None.
        scope: Which segments to fit.
        promoting: Also promote the version to champion, if the model's gate lets it.

    Returns:
        What was done; an error is a report, too.
    """
    name, begun = declaration.name, time.perf_counter()
    if not scope.batched:
        declaration = replace(declaration, batched=False)
    declared, found, search = declaration, None, ""
    try:
        if declared.search is not None:
            found = find_parameters(space, declared, trials=scope.trials)
            declaration, search = found.applied(declared), found_report(name, found).text
        last, since, why = _last(space, name)
        trained = _logged_fit(space, declaration, None if scope.everything else since, scope, why)
        if trained is None:
            note = ""
            if last is not None:
                note = place(space, declaration, last, alias, promoting=promoting, trained=False)
            return replace(
                _unchanged(last, note, why),
                model=name,
                table=str(space.lake.name(declaration.table)),
                metric=declaration.metric,
                seconds=time.perf_counter() - begun,
                search=search,
            )
        if found is not None:
            trained = with_search(trained, declared, found)
        version, why = _record(space, trained, alias, why, promoting=promoting)
        note = "it waits for: shoal track --pending"
        if version is not None:
            note = place(space, declaration, version, alias, promoting=promoting, trained=True)
    except (ShoalError, FileNotFoundError) as error:
        said = str(error)
        if isinstance(error, FileNotFoundError):
            said = f"A file of {declared.table} is gone ({said}). Hint: shoal checks"
        return ModelReport(
            model=name,
            status="failed",
            reason=reason,
            seconds=time.perf_counter() - begun,
            error=said,
            search=search,
        )
    return ModelReport(
        model=name,
        status="pending" if version is None else "trained",
        reason=_noted(f"{reason}: {trained.reason}" if trained.reason else reason, note),
        version=None if version is None else version.version,
        run_id=None if version is None else version.run_id,
        table=trained.table,
        table_version=trained.table_version,
        metric=declaration.metric,
        metrics=trained.metrics,
        failures=trained.failures,
        seconds=time.perf_counter() - begun,
        error=why or None,
        search=search,
    )


def _record(
    space: Opened, trained: TrainedFleet, alias: str | None, why: str, *, promoting: bool
) -> tuple[ModelVersion | None, str]:
    """The registered version, or None and why it has to wait."""
    from shoal.tracking import run_context
    from shoal.tracking.pending import keep_pending

    context = run_context(space.project.root, project=space.project.name)
    if not why:  # it answered before
        try:
            version = space.tracker.record(trained, context, alias=None)
        except Unavailable as error:
            why = error.message
        else:
            # MLflow has its copy now; when it could not be reached, this one stays.
            shutil.rmtree(trained.artifact, ignore_errors=True)
            return version, ""
    keep_pending(trained, context, alias=alias, promoting=promoting, why=why)
    return None, why


def _last(space: Opened, name: str) -> tuple[ModelVersion | None, int | None, str]:
    """The newest training, the version of its members, and why MLflow cannot be asked.

    What waits to be recorded is recorded first. Where MLflow does not answer, the newest that waits
    is what the next training carries over from.
    """
    try:
        record_pending(space, [name])
        last = last_training(space, name)
    except Unavailable as error:
        kept = waiting(space, [name])
        return None, kept[-1].trained.members_version if kept else None, error.message
    return last, int(last.tags["shoal.members_version"]) if last else None, ""


def _unchanged(last: ModelVersion | None, note: str, why: str) -> ModelReport:
    """The report of a training that had nothing to fit."""
    if last is None:
        waits = "nothing changed since the training that waits to be recorded"
        return ModelReport(model="", status="pending", reason=waits, error=why or None)
    reason = _noted(f"nothing changed since version {last.version}", note)
    return ModelReport(
        model="", status="current", reason=reason, version=last.version, run_id=last.run_id
    )


def _noted(reason: str, note: str) -> str:
    return f"{reason}; {note}" if note else reason


def _logged_fit(
    space: Opened, declaration: ModelDeclaration, since: int | None, scope: Scope, why: str
) -> TrainedFleet | None:
    """Fits; where the model's own code logs, inside the run that the training will be."""
    from shoal.tracking.inside import logs_itself, open_run

    there = space.project.profile.on_engine
    if why or not logs_itself(declaration.function):
        nursery = space.nursery if declaration.by and not there else None
        return _fit(space, declaration, since, scope, nursery)
    with open_run(space.tracker, declaration.name) as run_id:
        # Processes that were started before know of no run.
        trained = _fit(space, declaration, since, scope, None)
    if trained is None:
        space.tracker.forget_run(run_id)
        return None
    return replace(trained, run_id=run_id)


def _fit(
    space: Opened,
    declaration: ModelDeclaration,
    since: int | None,
    scope: Scope,
    nursery: Nursery | None,
) -> TrainedFleet | None:
    from shoal.training import retrain, train

    def progress(done: int, total: int) -> None:
        space.on_event("train", declaration.name, (done, total))

    workers = space.project.profile.workers
    profile = space.project.profile
    there = bool(profile.on_engine and declaration.by)
    # A single model's workers are started by Apache Spark, and on other engines here.
    together = profile.on_engine and declaration.workers is not None
    fitting = there or (together and not space.engine.sail)
    if since is None:
        return train(
            declaration,
            space.lake,
            workers=workers,
            progress=progress,
            nursery=nursery,
            spark=space.engine.spark if fitting else None,
        )
    return retrain(
        declaration,
        space.lake,
        since=since,
        failed=scope.failed,
        segments=scope.segments,
        affected=scope.affected,
        workers=workers,
        progress=progress,
        nursery=nursery,
        spark=(lambda: space.engine.spark) if fitting else None,
    )


def last_training(space: Opened, name: str) -> ModelVersion | None:
    """The newest trained version whose members lie in this lake; None when there is none.

    A composite was not trained: what it holds, its trainings hold too.
    """
    table = f"shoal.fleet_{name}"
    if name not in space.tracker.models() or not space.lake.table(table).exists():
        return None
    (pointers,) = space.tracker.pointers(name)
    for number in range(pointers.newest or 0, 0, -1):
        version = space.tracker.version(name, number)
        tags = {} if version is None else version.tags
        ours = tags.get("shoal.members_table") == table and tags.get("shoal.members_version")
        if ours and "shoal.parts" not in tags:
            return version
    return None

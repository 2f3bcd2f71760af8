"""Retention: old versions and runs go by policy, never what somebody still needs."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.errors import TableError

if TYPE_CHECKING:
    from shoal.tracking import ModelVersion, TrackedRun
    from shoal.workspace.workspace import Workspace

__all__ = ["Collected", "Doomed", "collect"]

_MOST_RUNS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Doomed:
    """A version or a run that goes.

    Attributes:
        model: ``models:/delay/3``; for a run that registered nothing, its name.
        run_id: Its run.
        created: When it was made, UTC.
        kind: ``version`` or ``run``.
    """

    model: str
    run_id: str
    created: dt.datetime
    kind: str


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What retention took away, or would.

    Attributes:
        gone: Versions and runs.
        kept: Old versions that stay, and who needs them.
        applied: They are gone; False for a dry run.
    """

    gone: tuple[Doomed, ...]
    kept: dict[str, str]
    applied: bool


def collect(
    space: Workspace,
    names: Sequence[str] = (),
    *,
    keep: int = 10,
    older_than: dt.timedelta = dt.timedelta(days=30),
    apply: bool = False,
) -> Collected:
    """Deletes old versions with their runs, and old runs that registered nothing.

    What an alias, a canary, a rollback, a composite's members, a reproduction's receipt or a
    snapshot needs stays, however old. Deleted runs stay in MLflow's bin until ``mlflow gc``.

    Args:
        space: The workspace.
        names: Registered models; by default all that Shoal made, and the experiment's runs.
        keep: How many of the newest versions of each model, and of the newest other runs, stay.
        older_than: Only what is older goes.
        apply: Do it; else nothing is changed.

    Raises:
        TrackingError: There is no such model.
    """
    before = time.time() - older_than.total_seconds()
    runs = {run.run_id: run for run in space.tracker.runs(_MOST_RUNS)}
    models = list(names) or [p.name for p in space.tracker.pointers() if p.own]
    gone: list[ModelVersion] = []
    kept: dict[str, str] = {}
    used: set[str] = set()
    for name in models:
        versions = space.tracker.versions(name)
        needed = _needed(space, name, versions, runs, keep, before)
        for version in versions:
            if (why := needed.get(version.version)) is None:
                gone.append(version)
                continue
            used.add(version.run_id)
            if version.created < before and why != "new":
                kept[version.uri] = why
    doomed = [
        Doomed(
            model=version.uri,
            run_id=version.run_id,
            created=dt.datetime.fromtimestamp(version.created, dt.UTC),
            kind="version",
        )
        for version in gone
    ]
    others = [] if names else list(_old_runs(space, runs, keep, before))
    doomed += [
        Doomed(model=run.name, run_id=run.run_id, created=run.started, kind="run") for run in others
    ]
    if apply:
        shared = {version.run_id for version in gone} & used
        for version in gone:
            own = version.run_id not in shared and version.run_id in runs
            space.tracker.forget_version(version, run=own)
            if own:
                shared.add(version.run_id)  # of two versions of one run the first takes it along
        for run in others:
            space.tracker.forget_run(run.run_id)
    return Collected(gone=tuple(doomed), kept=kept, applied=apply)


def _needed(
    space: Workspace,
    name: str,
    versions: Sequence[ModelVersion],
    runs: dict[str, TrackedRun],
    keep: int,
    before: float,
) -> dict[int, str]:
    """Numbers of the versions that stay, and why; ``new`` for those that policy keeps."""
    found: dict[int, str] = {}
    for place, version in enumerate(versions):
        if place < keep or version.created >= before:
            found[version.version] = "new"
    for version in versions:
        for reason in _reasons(space, version, runs):
            found[version.version] = reason
    trail = space.audit.before(name)
    for number in trail[-2:-1]:
        found[number] = f"shoal rollback {name} goes back to it"
    by_number = {version.version: version for version in versions}
    waiting = [number for number in found if number in by_number]
    while waiting:
        composite = by_number[waiting.pop()]
        for number in _origins(space, composite, versions):
            if found.get(number, "new") == "new":
                fresh = number not in found
                found[number] = f"members of {composite.uri} come from it"
                if fresh and number in by_number:
                    waiting.append(number)
    return found


def _reasons(space: Workspace, version: ModelVersion, runs: dict[str, TrackedRun]) -> Iterator[str]:
    from shoal.lake import Snapshots

    run = runs.get(version.run_id)
    if run is not None and "shoal.reproduced" in run.tags:
        yield "a reproduction's receipt is on its run"
    where = version.tags.get("shoal.table"), version.tags.get("shoal.table_version")
    for snapshot in Snapshots(space.lake).all():
        if where == (snapshot.table, str(snapshot.version)):
            yield f"it was trained on snapshot {snapshot.name}"
    if version.aliases:
        yield f"{', '.join(version.aliases)} points at it"


def _origins(
    space: Workspace, version: ModelVersion, versions: Sequence[ModelVersion]
) -> Iterator[int]:
    """The versions whose trainings fitted a composite's members."""
    import polars as pl

    tags = version.tags
    if "shoal.parts" not in tags:
        return
    yield from (int(part) for part in tags["shoal.parts"].split(",") if part.isdigit())
    try:
        table = space.lake.table(tags["shoal.members_table"])
        rows = table.scan(int(tags["shoal.members_version"])).filter(
            pl.col("fleet_version") == int(tags["shoal.fleet_version"])
        )
        fleets = set(rows.select("origin_version").unique().collect()["origin_version"].to_list())
    except (KeyError, ValueError, TableError, OSError, pl.exceptions.PolarsError):
        return
    for other in versions:
        if "shoal.parts" not in other.tags and other.tags.get("shoal.fleet_version") in {
            str(fleet) for fleet in fleets
        }:
            yield other.version


def _old_runs(
    space: Workspace, runs: dict[str, TrackedRun], keep: int, before: float
) -> Iterator[TrackedRun]:
    """Runs of Shoal's that no version of any model was registered from."""
    registered = {
        version.run_id
        for name in space.tracker.models()
        for version in space.tracker.versions(name)
    }
    place = 0
    for run in sorted(runs.values(), key=lambda run: run.started, reverse=True):
        if run.run_id in registered or "shoal.project" not in run.tags:
            continue
        place += 1
        old = run.started.timestamp() < before and place > keep
        if old and "shoal.reproduced" not in run.tags:
            yield run

"""Recording what was trained while MLflow could not be reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.errors import ShoalError
from shoal.workspace.promotion import place
from shoal.workspace.report import ModelReport

if TYPE_CHECKING:
    from shoal.tracking import ModelVersion
    from shoal.tracking.pending import Pending
    from shoal.workspace.opened import Opened

__all__ = ["record_pending", "waiting"]


def waiting(space: Opened, names: Sequence[str] = ()) -> list[Pending]:
    """The trainings of models that wait to be recorded, of each model the oldest first.

    Args:
        space: The workspace.
        names: Which models; all with members in the lake by default.

    Raises:
        TrackingError: One of them cannot be read.
    """
    from shoal.tracking.pending import read_pending

    tables = [space.lake.table(f"shoal.fleet_{name}") for name in names]
    if not names:
        tables = [t for t in space.lake.tables() if t.name.startswith("shoal.fleet_")]
    return [found for table in tables for found in read_pending(str(table.here))]


def record_pending(space: Opened, names: Sequence[str] = ()) -> list[ModelReport]:
    """Records them, in the order in which they were trained.

    Of one that MLflow has already, because a process died before it could forget it, no second
    version is made.

    Args:
        space: The workspace.
        names: Which models; all by default.

    Returns:
        One report each; the first that cannot be recorded ends it.
    """
    reports: list[ModelReport] = []
    for each in waiting(space, names):
        trained = each.trained
        name = trained.declaration.name
        try:
            version = _known(space, each) or space.tracker.record(trained, each.context, alias=None)
            declaration = space.models.get(name, trained.declaration)
            note = place(
                space, declaration, version, each.alias, promoting=each.promoting, trained=True
            )
        except ShoalError as error:
            status = "pending" if error.exit_code == 75 else "failed"
            reports.append(ModelReport(model=name, status=status, reason="waits", error=str(error)))
            break
        each.done()
        reports.append(
            ModelReport(
                model=name,
                status="trained",
                reason=f"recorded later{'; ' + note if note else ''}",
                version=version.version,
                run_id=version.run_id,
                table=trained.table,
                table_version=trained.table_version,
                metric=trained.declaration.metric,
                metrics=trained.metrics,
                failures=trained.failures,
                seconds=trained.seconds,
            )
        )
    return reports


def _known(space: Opened, pending: Pending) -> ModelVersion | None:
    trained, tracker = pending.trained, space.tracker
    name = trained.declaration.name
    if name not in tracker.models():
        return None
    for version in tracker.versions(name):
        tags = version.tags
        same = tags.get("shoal.members_version") == str(trained.members_version)
        if same and tags.get("shoal.table_id") == trained.table_id:
            return version
    return None

"""Training again: only what changed is fitted, the other members are carried over."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import TrainingError
from shoal.lake import Lake
from shoal.models import ModelDeclaration, TrainedFleet
from shoal.training.base import Base, read_base
from shoal.training.carry import Refit, compare, named_segments, rows_of, touched_keys
from shoal.training.fingerprint import member_fingerprint
from shoal.training.fitting import Progress, refit
from shoal.training.nursery import Nursery
from shoal.training.plan import Plan
from shoal.training.run import finish, open_pool, train
from shoal.training.source import Source, has_new_labels, open_source

if TYPE_CHECKING:
    import polars as pl
    from pyspark.sql.connect.session import SparkSession

__all__ = ["retrain"]


def retrain(
    declaration: ModelDeclaration,
    lake: Lake,
    *,
    since: int,
    failed: bool = False,
    segments: Sequence[str] = (),
    affected: Collection[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    version: int | None = None,
    nursery: Nursery | None = None,
    spark: Callable[[], SparkSession] | None = None,
) -> TrainedFleet | None:
    """Fit only what changed since an earlier training, and carry the other members over.

    A segment is fitted again when files that the table gained or lost hold rows of it, and its
    rows are not those that its member was fitted on (by their hash). Everything is fitted when the
    definition, the code that it reaches or the libraries changed, or a class is new.

    Args:
        declaration: What to train.
        lake: Where the table and the fleet table are.
        since: The version of the fleet table that the earlier training made.
        failed: Also fit the members that failed.
        segments: Fit these alone, whether they changed or not; such as ``UA,IAH``.
        affected: Canonical keys of members that learned from bad rows: fit these alone, and the
            fallback groups above them. Segments that have no rows any more go.
        workers: Processes that fit; default one per processor.
        progress: Called with the numbers of fitted segments and of those to fit.
        version: The table's version to read; default the newest.
        nursery: Starts the workers; by default one for this training.
        spark: Gives an engine that fits when everything is fitted; single segments are fitted here.

    Returns:
        What was trained, for tracking; None when nothing had to be.

    Raises:
        TableNotFound: There is no such table.
        ModelError: The declaration or its function is wrong.
        TrainingError: The data cannot train it, or a segment does not exist; nothing was committed.
        Conflict: Another training of the model committed first; nothing was committed.
    """
    begun = time.perf_counter()
    if segments and not declaration.by:
        raise TrainingError(f"Model {declaration.name!r} has no segments: it declares no by.")
    source = open_source(declaration, lake, version)

    def all_of_it(reason: str) -> TrainedFleet:
        return train(
            declaration,
            lake,
            workers=workers,
            progress=progress,
            version=version,
            nursery=nursery,
            spark=spark() if spark else None,
            reason=reason,
        )

    base = read_base(lake.table(f"shoal.fleet_{declaration.name}"), since)
    why = _everything(declaration, source, base)
    if segments and why:
        raise TrainingError(
            f"Model {declaration.name!r}: single segments cannot be fitted: {why}.",
            hint=f"shoal train {declaration.name} --all",
        )
    if base is None or why:
        return all_of_it(reason=f"all, {why}")
    touched: pl.DataFrame | None
    if affected is not None:
        lost = base.segments.filter(base.segments["segment"].is_in(list(affected)))
        touched, forced = _values(lost, declaration, source), None
    else:
        touched, forced = _candidates(declaration, source, base, segments, failed=failed)
    if touched is not None and not touched.height:
        return None
    if not declaration.by:
        return all_of_it(reason="its rows changed")
    part = source if touched is None else rows_of(declaration, source, base, touched)
    if has_new_labels(declaration, part, base.target):
        return all_of_it(reason="all, a class is new")
    with (
        tempfile.TemporaryDirectory(prefix="shoal-train-") as folder,
        open_pool(declaration, nursery, workers) as pool,
    ):
        work = compare(
            declaration,
            source,
            base,
            part=part,
            forced=forced,
            file=Path(folder) / "rows.arrow",
        )
        if not len(work.stale) and not work.gone:
            return None
        plan = Plan(declaration, source, target=base.target, segments=work.segments)
        alone = bool(segments) or affected is not None
        bad = affected or ()
        fits = refit(
            plan, base, work, pool, Path(folder), progress, checked=not alone, affected=bad
        )
    return finish(plan, lake, fits, begun, _counts(work))


def _everything(declaration: ModelDeclaration, source: Source, base: Base | None) -> str:
    """Why no member can be carried over; empty when some can."""
    if base is None:
        return "the last training's members cannot be read"
    now, before = member_fingerprint(declaration, source), base.segments["fingerprint"].unique()
    if list(before) == [now]:
        return ""
    definition = now.partition("-")[0]
    if all(text.partition("-")[0] == definition for text in before):
        return "the libraries changed"
    return "the definition changed"


def _candidates(
    declaration: ModelDeclaration,
    source: Source,
    base: Base,
    segments: Sequence[str],
    *,
    failed: bool,
) -> tuple[pl.DataFrame | None, set[str] | None]:
    """Which segments may have to be fitted, and which must be; see `compare`."""
    if segments:
        return named_segments(declaration, source, segments), None
    touched = touched_keys(declaration, source, base)
    if failed and declaration.by:
        return _with_failed(base, touched, declaration)
    return touched, set()


def _values(members: pl.DataFrame, declaration: ModelDeclaration, source: Source) -> pl.DataFrame:
    """The key columns of members, as the table has them."""
    kinds = source.scan().select(declaration.by).collect_schema()
    return members.select(declaration.by).cast(dict(kinds))  # type: ignore[arg-type]


def _with_failed(
    base: Base, touched: pl.DataFrame | None, declaration: ModelDeclaration
) -> tuple[pl.DataFrame | None, set[str]]:
    lost = base.segments.filter(base.segments["status"] == "failed")
    if touched is not None:
        values = lost.select(declaration.by).cast(dict(touched.schema))  # type: ignore[arg-type]
        touched = touched.vstack(values).unique()
    return touched, set(lost["segment"].to_list())


def _counts(work: Refit) -> str:
    fitted, carried = len(work.stale), len(work.keys) - len(work.stale)
    gone = f", {work.gone:,} gone" if work.gone else ""
    return f"{fitted:,} of {len(work.keys):,} segments fitted, {carried:,} carried over{gone}"

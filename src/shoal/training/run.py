"""One training, from a table at a version to committed members and a fleet artifact."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import TrainingError
from shoal.lake import Lake
from shoal.models import ModelDeclaration, TrainedFleet
from shoal.training.baseline import baseline_member
from shoal.training.cluster import fit_on_engine
from shoal.training.commit import commit_fleet
from shoal.training.fitting import Fits, Progress, fit_many, fit_one
from shoal.training.local import Local, fits_here
from shoal.training.members import Members, assemble
from shoal.training.nursery import Nursery
from shoal.training.plan import Plan
from shoal.training.pool import Pool
from shoal.training.source import open_source

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession

__all__ = ["finish", "fit_single", "new_nursery", "open_pool", "train"]


def train(
    declaration: ModelDeclaration,
    lake: Lake,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    version: int | None = None,
    nursery: Nursery | None = None,
    spark: SparkSession | None = None,
    reason: str = "",
) -> TrainedFleet:
    """Fit a model for every segment, and commit all members in one transaction.

    Each segment is split by time, fitted on the earlier rows and measured on the later ones;
    the kept state is then fitted on all its rows. A segment that fails or has too few rows gets
    a row that says so and names its fallback: the group of its first key columns or the global
    model, fitted on at most 200,000 of their rows, or at last the baseline.

    Args:
        declaration: What to train.
        lake: Where the table is, and where ``shoal.fleet_<name>`` goes.
        workers: Processes that fit; default one per processor.
        progress: Called with the numbers of fitted and of all segments.
        version: The table's version to read; default the newest.
        nursery: Starts the workers; by default one for this training.
        spark: An engine that fits the segments instead of processes here; of a single model with
            ``workers``, Apache Spark starts those of PyTorch.
        reason: Why everything is fitted, for the report.

    Returns:
        What was trained, for tracking.

    Raises:
        TableNotFound: There is no such table.
        ModelError: The declaration or its function is wrong.
        TrainingError: The data cannot train it; nothing was committed.
        Conflict: Another training of the model committed first; nothing was committed.
    """
    begun = time.perf_counter()
    source = open_source(declaration, lake, version)
    with working_folder(lake if spark is not None else None, rows=bool(declaration.by)) as folder:
        if declaration.by and spark is not None:
            plan = Plan(declaration, source)
            fits = fit_on_engine(plan, spark, folder, progress)
        elif declaration.by:
            with open_pool(declaration, nursery, workers) as pool:
                plan = Plan(declaration, source)
                fits = fit_many(plan, pool, Path(folder), progress)
        else:
            plan = Plan(declaration, source)
            fits = fit_single(plan, Path(folder), progress, spark)
    if declaration.by and not reason:
        reason = f"all {len(plan.segments.texts):,} segments fitted"
    return finish(plan, lake, fits, begun, reason)


def fit_single(
    plan: Plan, folder: Path, progress: Progress | None, spark: SparkSession | None = None
) -> Fits:
    """Fit one model over all rows: here, or in the processes that it declares, here or on Spark.

    Raises:
        TrainingError: Its estimator cannot be fitted by workers, or there are more than rows.
    """
    if plan.declaration.workers is None:
        return fit_one(plan, folder, progress)
    from shoal.training.distributed import fit_together, spark_launch

    if spark is None:
        return fit_together(plan, folder, progress)
    return fit_together(plan, folder, progress, spark_launch(spark))


def finish(plan: Plan, lake: Lake, fits: Fits, begun: float, reason: str) -> TrainedFleet:
    """Make members of what was fitted, and commit them.

    Raises:
        TrainingError: No segment has a model; nothing was committed.
        Conflict: Another training of the model committed first; nothing was committed.
    """
    return commit_fleet(plan, lake, gather(plan, fits), seconds=fits[2], begun=begun, reason=reason)


def gather(plan: Plan, fits: Fits) -> Members:
    """Members of what was fitted, each with a model to use.

    Raises:
        TrainingError: No segment has a model.
    """
    fitted, groups, _ = fits
    members = assemble(plan.declaration, plan.segments, fitted, groups, plan.job)
    if not any(used is not None for used in members.table.column("model_used").to_pylist()):
        raise _nothing_fitted(plan.declaration, members)
    if members.table.column("model_used").null_count:
        chain = [*groups, baseline_member(plan)]
        members = assemble(plan.declaration, plan.segments, fitted, chain, plan.job)
    return members


def _nothing_fitted(declaration: ModelDeclaration, members: Members) -> TrainingError:
    causes = "; ".join(f"{cause} ({n})" for cause, n in list(members.failures.items())[:3])
    error = next((e for e in members.table.column("error").to_pylist() if e), None)
    return TrainingError(
        f"Model {declaration.name!r}: no segment could be fitted: {causes}.",
        hint=f"the first error in full: {error}" if error and error not in causes else None,
    )


def new_nursery() -> Nursery:
    """One that knows what the models declared so far are likely to need."""
    known = ("xgboost", "lightgbm", "torch", "torch._dynamo", "skorch")
    loaded = [name for name in known if name in sys.modules]
    modules = ["sklearn.pipeline", "sklearn.linear_model", "sklearn.preprocessing", *loaded]
    return Nursery(modules)


@contextlib.contextmanager
def open_pool(
    declaration: ModelDeclaration, nursery: Nursery | None, workers: int | None
) -> Iterator[Pool | Local]:
    """What fits a model's segments: processes, or at first this one where a batch fits them.

    Args:
        declaration: The model.
        nursery: Starts processes; None makes one where they are needed.
        workers: How many; one per processor by default.

    Raises:
        ModelError: The declaration's function is wrong.
    """
    size = workers or _processors()
    with contextlib.ExitStack() as stack:

        def processes() -> Pool:
            return stack.enter_context(Pool(nursery or stack.enter_context(new_nursery()), size))

        yield Local(size, processes) if fits_here(declaration) else processes()


@contextlib.contextmanager
def working_folder(lake: Lake | None, *, rows: bool = False) -> Iterator[str]:
    """A folder that goes when it is left.

    Args:
        lake: Where, when an engine must see it too; None makes one on this machine. Of a lake in
            a cloud, too, unless ``rows``: programs cannot map files there.
        rows: The engine itself reads and writes there.
    """
    if lake is None:
        with tempfile.TemporaryDirectory(prefix="shoal-train-") as folder:
            yield folder
        return
    with lake.scratch("training", shared=rows) as folder:
        yield folder


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

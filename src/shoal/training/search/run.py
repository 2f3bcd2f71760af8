"""One search, from a declaration to the best parameters."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from shoal.errors import ModelError, TrainingError
from shoal.lake import Lake, Table
from shoal.models import ModelDeclaration
from shoal.models.segments import segment_key
from shoal.training.clusters import cluster_keys
from shoal.training.fingerprint import search_fingerprint
from shoal.training.fitting import Progress
from shoal.training.local import Local
from shoal.training.nursery import Nursery
from shoal.training.plan import Plan
from shoal.training.pool import Pool
from shoal.training.run import new_nursery, open_pool, working_folder
from shoal.training.search.apart import search_apart
from shoal.training.search.found import Found, read_found, study_rows
from shoal.training.search.job import SearchJob
from shoal.training.search.onengine import OnEngine
from shoal.training.search.rounds import search_rounds
from shoal.training.search.rows import write_training_rows
from shoal.training.search.space import Space, open_space
from shoal.training.search.studies import new_study, quiet, shared_points
from shoal.training.search.together import search_together
from shoal.training.search.trials import StudyId, TrialLog, read_trials
from shoal.training.search.work import Alone, Array, Scope, Work
from shoal.training.ship import pickled_job
from shoal.training.sorting import sort_rows
from shoal.training.source import Source, open_source

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession

__all__ = ["search"]


def search(
    declaration: ModelDeclaration,
    lake: Lake,
    *,
    trials: int | None = None,
    anew: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    version: int | None = None,
    nursery: Nursery | None = None,
    spark: SparkSession | None = None,
) -> Found:
    """Search for a declaration's parameters, or read what an earlier search found.

    A finished search of the same definition and space is not made again, also when the table has
    new rows, unless ``anew`` says so; one that was interrupted, on the same version of the table,
    goes on from its recorded trials.

    Args:
        declaration: What to search for; it declares a search.
        lake: Where the table is, and where ``shoal.trials_<name>`` goes.
        trials: How many trials; default the declared number.
        anew: Search on the table as it is now; only a search of this very version counts.
        workers: Processes that fit; default one per processor.
        progress: Called with the numbers of trials made and of all.
        version: The table's version to read; default the newest.
        nursery: Starts the workers; by default one for this search.
        spark: An engine whose workers measure instead of processes here.

    Returns:
        The best parameters.

    Raises:
        TableNotFound: There is no such table.
        ModelError: The declaration, its function or its space is wrong.
        TrainingError: The data cannot train it, Optuna or Hyperopt is missing, or every trial
            failed; then no trial is recorded.
        Conflict: Another search of the same study is going on.
    """
    begun = time.perf_counter()
    space = open_space(declaration)
    wanted = trials or space.search.trials
    if wanted < 1:
        raise TrainingError(f"Model {declaration.name!r}: trials is {trials}; expected 1 or more.")
    with quiet() if not space.search.is_hyperopt else contextlib.nullcontext():
        buildable = replace(_buildable(declaration, space, wanted), search=space.search)
        source = open_source(buildable, lake, version)
    table = lake.table(f"shoal.trials_{declaration.name}")
    fingerprint = search_fingerprint(declaration, source)
    made_of = hashlib.sha256(f"{fingerprint} {source.table.id()}".encode()).hexdigest()
    study = StudyId(
        name=f"{made_of[:12]}-{source.version}",
        fingerprint=fingerprint,
        table=source.table.name,
        table_version=source.version,
    )
    columns = space.search.columns(declaration.by)
    apart = bool(columns) and columns == declaration.by
    shared = apart and space.search.sampler is None and not space.search.is_hyperopt
    with quiet() if not space.search.is_hyperopt else contextlib.nullcontext():
        known = _finished(table, study, wanted, anew=anew)
        if known is not None:
            found = read_found(table, known, declaration, space, shared=shared)
            return replace(found, newest=source.version)
        new = _search(
            declaration, source, space, lake, study, wanted, apart, shared,
            workers=workers, progress=progress, nursery=nursery, spark=spark,
        )  # fmt: skip
        found = read_found(table, study.name, declaration, space, shared=shared)
    return replace(found, newest=source.version, new=new, seconds=time.perf_counter() - begun)


def _finished(table: Table, study: StudyId, wanted: int, *, anew: bool) -> str | None:
    """The newest finished study of the same definition with so many trials."""
    import polars as pl

    if not table.exists():
        return None
    rows = table.scan().filter(pl.col("fingerprint") == study.fingerprint)
    if anew:
        rows = rows.filter(pl.col("study") == study.name)
    names = rows.select("study", "table_version").unique().collect()
    for name in names.sort("table_version", descending=True)["study"].to_list():
        if (table.transaction(f"shoal-finished-{name}") or 0) >= wanted:
            return str(name)
    return None


def _search(
    declaration: ModelDeclaration,
    source: Source,
    space: Space,
    lake: Lake,
    study: StudyId,
    wanted: int,
    apart: bool,
    shared: bool,
    *,
    workers: int | None,
    progress: Progress | None,
    nursery: Nursery | None,
    spark: SparkSession | None,
) -> int:
    """Makes what is missing of a study's trials; returns how many were made."""
    plan = Plan(_buildable(declaration, space, wanted), source)
    table = lake.table(f"shoal.trials_{declaration.name}")
    with (
        working_folder(lake if spark is not None else None) as folder,
        contextlib.ExitStack() as stack,
    ):
        work_rows, scopes, offsets = _prepare(plan, space, Path(folder))
        keys = _keys(plan, scopes)
        recorded = []
        if table.exists():
            # What was lost with a worker is tried again.
            recorded = [t for t in read_trials(study_rows(table, study.name)) if t.point != "{}"]
        log = TrialLog(table, study, keys, {s.key: i for i, s in enumerate(scopes)}, len(recorded))
        fit = replace(
            plan.job,
            holdout=space.search.validation,
            backtest=1,
            interval=None,
            metrics=(declaration.metric,),
            # As many rows as are left of a segment that just has enough.
            min_rows=max(1, int(plan.job.min_rows * (1 - space.search.validation))),
            batched=plan.job.batched and (not apart or shared),
            measure_only=True,
        )
        job = SearchJob(
            fit=fit,
            declaration=replace(declaration, search=None),
            features=tuple(f.name for f in source.features),
            space=space,
            trials=wanted,
        )
        file = Path(folder) / "job"
        file.write_bytes(pickled_job(job, declaration))
        parallel = space.search.parallel
        pool: Pool | Local | Alone | OnEngine = Alone()
        if spark is not None and (declaration.by or parallel > 1):
            most = workers or os.cpu_count() or 1
            pool = OnEngine(spark, most if declaration.by else parallel)
        elif declaration.by:
            pool = stack.enter_context(open_pool(plan.declaration, nursery, workers))
        elif parallel > 1:
            made = nursery or stack.enter_context(new_nursery())
            pool = stack.enter_context(Pool(made, min(parallel, workers or parallel)))
        pool.open(file, work_rows)
        work = Work(
            space=space, fit=fit, pool=pool, offsets=offsets, scopes=scopes, wanted=wanted,
            log=log, progress=progress, recorded=recorded,
        )  # fmt: skip
        try:
            if apart:
                points = None
                if shared:
                    points = shared_points(space, seed=declaration.seed, trials=wanted)
                search_apart(work, points)
            elif not declaration.by:
                search_rounds(work, parallel)
            else:
                search_together(work)
        except BaseException:
            # What was measured is kept, whatever came between; its own error is the one to tell.
            with contextlib.suppress(Exception):
                log.close()
            raise
        if not any(t.state == "complete" for t in (*recorded, *work.made)):
            raise _all_failed(declaration, work)
        log.finish(wanted)
    return len(work.made)


def _buildable(declaration: ModelDeclaration, space: Space, wanted: int) -> ModelDeclaration:
    """The declaration with the first drawn parameters that its function takes."""
    last: ModelError | None = None
    for params in _samples(declaration, space, min(wanted, 10)):
        declared = replace(declaration, params={**declaration.params, **params}, search=None)
        try:
            declared.build()
        except ModelError as error:
            last = error
        else:
            return declared
    assert last is not None
    raise last


def _samples(
    declaration: ModelDeclaration, space: Space, count: int
) -> Iterator[dict[str, object]]:
    if space.search.is_hyperopt:
        study = new_study(space, greater=False, seed=declaration.seed, scope="")
        for _ in range(count):
            point = study.ask()
            if point is None:
                return
            yield space.params(point)
            study.tell("failed", None)
        return
    for point in shared_points(space, seed=declaration.seed, trials=count):
        yield space.params(point)


def _prepare(plan: Plan, space: Space, folder: Path) -> tuple[Path, list[Scope], Array]:
    """Writes the training rows, scope after scope; the segments of each in a random order.

    The first share of a scope's segments is then a fair sample of them, to prune by.
    """
    declaration, segments = plan.declaration, plan.segments
    searched = replace(declaration, search=space.search)
    sort_rows(declaration, plan.source, plan.target, folder / "rows.arrow", segments=plan.segments)
    length = len(space.search.columns(declaration.by))
    clusters = cluster_keys(searched, plan.source, segments)
    # A cluster is named in full, and has no key values in common.
    names = [
        clusters.get(key) or segment_key(text[:length])
        for key, text in zip(segments.keys, segments.texts, strict=True)
    ]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    random = np.random.default_rng([declaration.seed, len(names)])
    order = random.permutation(len(names))
    order = order[np.argsort([numbers[names[i]] for i in order.tolist()], kind="stable")]
    file = folder / "search.arrow"
    chosen, offsets = write_training_rows(
        folder / "rows.arrow", segments.offsets, order.tolist(), plan.job, file
    )
    (folder / "rows.arrow").unlink()
    if not chosen:
        raise TrainingError(
            f"Model {declaration.name!r} ({declaration.location}): there is nothing to search on: "
            f"no segment has min_rows = {declaration.min_rows} training rows."
        )
    scopes: list[Scope] = []
    for at, position in enumerate(chosen):
        key = names[position]
        if scopes and scopes[-1].key == key:
            scopes[-1] = replace(scopes[-1], end=at + 1)
        else:
            prefix = () if clusters else segments.texts[position][:length]
            scopes.append(Scope(key=key, prefix=prefix, first=at, end=at + 1, segment=position))
    return file, scopes, offsets


def _keys(plan: Plan, scopes: list[Scope]) -> pa.Table:
    """The scopes' values of the ``by`` columns; null in those that a scope has all values of."""
    at = pa.array([scope.segment for scope in scopes], pa.int64())
    length = len(scopes[0].prefix)
    columns = {}
    for i, name in enumerate(plan.declaration.by):
        values = plan.segments.values.column(name).combine_chunks()
        columns[name] = values.take(at) if i < length else pa.nulls(len(scopes), values.type)
    return pa.table(columns)


def _all_failed(declaration: ModelDeclaration, work: Work) -> TrainingError:
    causes = Counter((t.error or "").splitlines()[0][:200] for t in work.made if t.error)
    told = "; ".join(f"{cause} ({count:,})" for cause, count in causes.most_common(3))
    first = next((t for t in work.made if t.error), None)
    return TrainingError(
        f"Model {declaration.name!r} ({declaration.location}): all {len(work.made):,} trials of "
        f"its search failed: {told}. Nothing was committed.",
        hint=f"the first one's parameters: {first.params}" if first else None,
    )

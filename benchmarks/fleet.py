"""Fleet training against the bare loop, and against one MLflow run per model.

From a shuffled Delta table to a committed fleet in the MLflow registry, over the time that one
thread needs for nothing but the fits, on arrays sliced beforehand. Both in one run, in turns:

    python benchmarks/fleet.py
    python benchmarks/fleet.py --segments 1000 --rows 500 --features 8 --repeat 1
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from shoal.models import ModelDeclaration, TrainedFleet
    from shoal.tracking import RunContext

Array = np.ndarray[Any, Any]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=4000, help="segments (models)")
    parser.add_argument("--rows", type=int, default=500, help="rows in each segment")
    parser.add_argument("--features", type=int, default=8, help="feature columns")
    parser.add_argument("--workers", type=int, default=None, help="processes; default all cores")
    parser.add_argument("--no-batched", action="store_true", help="fit segment by segment")
    parser.add_argument("--repeat", type=int, default=3, help="turns of each")
    parser.add_argument("--usual", type=int, default=50, help="models the usual way; 0: none")
    options = parser.parse_args()

    features, target = made_up(options.segments, options.rows, options.features)
    # The first loop comes before anything of Shoal is loaded: other libraries in the process
    # slow scikit-learn's own checks.
    bare = [bare_loop(features, target)]
    fleets: list[tuple[float, float, TrainedFleet]] = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        write_table(Path(folder), features, target)
        for turn in range(options.repeat):
            fleets.append(
                shoal_fleet(Path(folder), options.workers, batched=not options.no_batched)
            )
            if turn + 1 < options.repeat:
                bare.append(bare_loop(features, target))
        usual = usual_way(Path(folder), features, target, options.usual) if options.usual else None
    report(options, bare, fleets, usual)


def made_up(segments: int, rows: int, width: int) -> tuple[list[Array], list[Array]]:
    """Feature matrices and targets, one of each per segment."""
    random = np.random.default_rng(0)
    features = [random.normal(size=(rows, width)) for _ in range(segments)]
    weights = random.normal(size=(segments, width))
    target = [x @ w + random.normal(size=rows) for x, w in zip(features, weights, strict=True)]
    return features, target


def estimator() -> Pipeline:
    """What is fitted."""
    return make_pipeline(StandardScaler(), Ridge())


def bare_loop(features: list[Array], target: list[Array]) -> float:
    """Seconds for the fits alone, on one thread."""
    with threadpool_limits(1):
        return seconds(
            lambda: [estimator().fit(x, y) for x, y in zip(features, target, strict=True)]
        )


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def write_table(folder: Path, features: list[Array], target: list[Array]) -> None:
    """The rows of all segments in random order, as a Delta table."""
    import pyarrow as pa

    from shoal.lake import Lake

    rows = len(target[0])
    order = np.random.default_rng(1).permutation(rows * len(target))
    matrix, values = np.concatenate(features)[order], np.concatenate(target)[order]
    names = pa.array([f"store-{i:05d}" for i in range(len(target))])
    columns = {
        "store": names.take(pa.array(order // rows)),
        "day": pa.array((order % rows).astype(np.int32)).cast(pa.date32()),
        **{f"x{i}": matrix[:, i] for i in range(matrix.shape[1])},
        "sales": values,
    }
    Lake(folder / "lake").table("gold.sales").append(pa.table(columns))


def declared(*, batched: bool) -> ModelDeclaration:
    """The fleet's declaration."""
    from shoal.models import collecting_models, model

    with collecting_models() as found:
        model(
            table="gold.sales",
            target="sales",
            by=["store"],
            time="day",
            name="sales",
            batched=batched,
        )(estimator)
    return found[0]


def context() -> RunContext:
    """What a tracked run says of its code."""
    from shoal.tracking import RunContext

    return RunContext(
        project="benchmark", code_commit=None, code_dirty=False, environment_hash=None, user="bench"
    )


def shoal_fleet(
    folder: Path, workers: int | None, *, batched: bool
) -> tuple[float, float, TrainedFleet]:
    """Seconds from the table to the registered fleet, of the clock and of processors.

    Those of worker processes are not among the latter. Then what was trained.
    """
    from shoal.lake import Lake
    from shoal.tracking import Tracker
    from shoal.training import train

    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"), "benchmark")
    if not (folder / "mlflow.db").exists():
        tracker.models()  # making MLflow's database is once per lake, not once per fleet
    begun, used = time.perf_counter(), time.process_time()
    trained = train(declared(batched=batched), Lake(folder / "lake"), workers=workers)
    tracker.record(trained, context())
    return time.perf_counter() - begun, time.process_time() - used, trained


def usual_way(folder: Path, features: list[Array], target: list[Array], count: int) -> float:
    """Seconds per model for a run, a logged model and a registered model each."""
    import mlflow
    from mlflow.models import infer_signature

    for chatty in ("mlflow", "mlflow.sklearn", "mlflow.utils.environment", "mlflow.utils.uv_utils"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/usual.db")
    mlflow.create_experiment("usual", artifact_location=str(folder / "usual"))
    mlflow.set_experiment("usual")
    count = min(count, len(target))

    def loop() -> None:
        for i, (x, y) in enumerate(zip(features[:count], target[:count], strict=True)):
            with mlflow.start_run():
                fitted = estimator().fit(x, y)
                mlflow.log_param("segment", i)
                mlflow.log_metric("r2", fitted.score(x, y))
                mlflow.sklearn.log_model(
                    fitted,
                    name="model",
                    registered_model_name=f"sales-{i}",
                    signature=infer_signature(x, y),
                    pip_requirements=["scikit-learn"],
                    serialization_format="pickle",
                )

    with contextlib.redirect_stderr(io.StringIO()):
        return seconds(loop) / count


def report(
    options: argparse.Namespace,
    bare: list[float],
    fleets: list[tuple[float, float, TrainedFleet]],
    usual: float | None,
) -> None:
    """Print the measured times."""
    base = float(np.median(bare))
    whole = float(np.median([took for took, *_ in fleets]))
    training = float(np.median([trained.seconds for *_, trained in fleets]))
    fitting = float(np.median([trained.metrics["fit_seconds"] for *_, trained in fleets]))
    shape = f"{options.segments:,} segments x {options.rows} rows x {options.features} features"
    table = Table(title=f"{shape}, StandardScaler + Ridge, {os.cpu_count()} cores")
    table.add_column("what")
    for name in ("seconds", "models/s", "over bare"):
        table.add_column(name, justify="right")

    def add(what: str, took: float) -> None:
        table.add_row(what, f"{took:.2f}", f"{options.segments / took:,.0f}", f"{took / base:.2f}")

    add(f"bare scikit-learn loop, one thread (median of {len(bare)})", base)
    add(f"shoal: Delta table to registered fleet (median of {len(fleets)})", whole)
    add("  of which train(): read, sort, fit, evaluate, refit, commit", training)
    add("  of which fitting in the pool", fitting)
    if usual is not None:
        per_model = usual * options.segments
        add(f"one MLflow run + log_model + register each (from {options.usual})", per_model)
    console = Console()
    console.print(table)
    turns = ", ".join(f"{took:.2f}" for took in bare)
    console.print(f"bare turns: {turns} s; over the fastest: {whole / min(bare):.2f}")
    cost = ", ".join(f"{used:.2f}" for _, used, _ in fleets)
    console.print(f"processor seconds of this process: {cost}, without its workers")
    turns = ", ".join(f"{took:.2f} (train {made.seconds:.2f})" for took, _, made in fleets)
    console.print(f"fleet turns: {turns} s; the first one also imports polars and MLflow")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    main()

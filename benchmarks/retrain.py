"""Training again after a small change, against a training of everything.

Both from a Delta table to a registered version, in one process; the table gets new rows for some
of its segments before each turn:

    python benchmarks/retrain.py
    python benchmarks/retrain.py --segments 1000 --changed 0.02 --learner lightgbm
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=5000, help="segments (models)")
    parser.add_argument("--rows", type=int, default=500, help="rows in each segment")
    parser.add_argument("--features", type=int, default=8, help="feature columns")
    parser.add_argument("--changed", type=float, default=0.02, help="share of segments with news")
    parser.add_argument("--learner", choices=("ridge", "lightgbm", "trees"), default="ridge")
    parser.add_argument("--workers", type=int, default=None, help="processes; default all cores")
    parser.add_argument("--cold", action="store_true", help="new worker processes for each")
    parser.add_argument("--repeat", type=int, default=3, help="turns of each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        measure(Path(folder), options)


def rows(segments: np.ndarray[Any, Any], days: np.ndarray[Any, Any], width: int) -> pa.Table:
    """A row for each segment and day, shuffled."""
    random = np.random.default_rng(int(days[0]))
    segment, day = (a.ravel() for a in np.meshgrid(segments, days))
    order = random.permutation(len(segment))
    features = random.normal(size=(len(segment), width))
    names = pa.array([f"store-{i:05d}" for i in range(int(segments.max()) + 1)])
    return pa.table(
        {
            "store": names.take(pa.array(segment[order])),
            "day": pa.array(day[order].astype(np.int32)).cast(pa.date32()),
            **{f"x{i}": features[:, i] for i in range(width)},
            "sales": features.sum(axis=1) + random.normal(size=len(segment)),
        }
    )


def ridge() -> Any:
    """The small learner."""
    return make_pipeline(StandardScaler(), Ridge())


def lightgbm() -> Any:
    """The larger one."""
    from lightgbm import LGBMRegressor

    return LGBMRegressor(n_estimators=50, num_leaves=15, n_jobs=1, verbose=-1)


def trees() -> Any:
    """The largest."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(max_iter=50)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Full trainings and trainings of what changed, in turns."""
    from shoal.lake import Lake
    from shoal.models import TrainedFleet, collecting_models, model
    from shoal.tracking import RunContext, Tracker
    from shoal.training import new_nursery, retrain, train

    lake = Lake(folder / "lake")
    table = lake.table("gold.sales")
    every = np.arange(options.segments)
    table.append(rows(every, np.arange(options.rows), options.features))
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"), "benchmark")
    tracker.models()
    context = RunContext(
        project="benchmark", code_commit=None, code_dirty=False, environment_hash=None, user="bench"
    )
    with collecting_models() as found:
        declare = model(table="gold.sales", target="sales", by=["store"], time="day", name="sales")
        declare({"ridge": ridge, "lightgbm": lightgbm, "trees": trees}[options.learner])
    took: dict[str, list[float]] = {"full": [], "changed": [], "nothing": []}
    used: dict[str, list[float]] = {"full": [], "changed": []}
    trainings: dict[str, list[float]] = {"full": [], "changed": []}
    reason = ""

    def record(what: str, begun: float, trained: TrainedFleet | None) -> TrainedFleet:
        assert trained is not None
        tracker.record(trained, context)
        took[what].append(time.perf_counter() - begun)
        used[what].append(time.process_time() - processor)
        trainings[what].append(trained.seconds)
        return trained

    day, processor = options.rows, 0.0
    nursery = None if options.cold else new_nursery()
    for _ in range(options.repeat):
        begun, processor = time.perf_counter(), time.process_time()
        last = record(
            "full", begun, train(found[0], lake, workers=options.workers, nursery=nursery)
        )
        count = max(int(options.segments * options.changed), 1)
        chosen = np.sort(np.random.default_rng(day).permutation(every)[:count])
        table.append(rows(chosen, np.arange(day, day + 5), options.features))
        day += 5
        since, begun = last.members_version, time.perf_counter()
        processor = time.process_time()
        last = record(
            "changed",
            begun,
            retrain(found[0], lake, since=since, workers=options.workers, nursery=nursery),
        )
        reason, begun = last.reason, time.perf_counter()
        assert retrain(found[0], lake, since=last.members_version) is None
        took["nothing"].append(time.perf_counter() - begun)
    if nursery is not None:
        nursery.close()
    base = float(np.median(took["full"]))
    shape = f"{options.segments:,} segments x {options.rows} rows x {options.features} features"
    shown = Table(title=f"{shape}, {options.learner}, {os.cpu_count()} cores")
    for name in ("what", "seconds (median)", "of a full training", "turns"):
        shown.add_column(name)
    names = {"full": "train()", "changed": f"retrain(): {reason}", "nothing": "nothing changed"}
    for what, seconds in took.items():
        middle = float(np.median(seconds))
        turns = ", ".join(f"{s:.2f}" for s in seconds)
        shown.add_row(names[what], f"{middle:.3f}", f"{middle / base:.1%}", turns)
    Console().print(shown)
    inside = ", ".join(f"{k} {np.median(v):.3f}" for k, v in trainings.items())
    Console().print(f"of which without MLflow: {inside} s")
    inside = ", ".join(f"{k} {np.median(v):.3f}" for k, v in used.items())
    Console().print(f"processor seconds of this process, without its workers: {inside}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    main()

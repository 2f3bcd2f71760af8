"""A fleet of boosters against the bare loop that makes the same fits on as many processes.

Both fit each segment's earlier rows, predict the later ones, and fit all rows: the loop with
joblib on arrays sliced beforehand, the fleet from a shuffled Delta table to committed members:

    python benchmarks/boosters.py
    python benchmarks/boosters.py --learner hist --segments 200
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from fleet import made_up, seconds, write_table


def lightgbm() -> Any:
    """LightGBM."""
    from lightgbm import LGBMRegressor

    return LGBMRegressor(n_estimators=50, num_leaves=15, n_jobs=1, verbose=-1)


def hist() -> Any:
    """scikit-learn's own."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(max_iter=50, max_leaf_nodes=15)


LEARNERS = {"lightgbm": lightgbm, "hist": hist}


def one(build: Any, x: Any, y: Any) -> None:
    """A segment's fits, as the fleet makes them."""
    with threadpool_limits(1):
        cut = len(y) - int(np.ceil(0.2 * len(y)))
        build().fit(x[:cut], y[:cut]).predict(x[cut:])
        build().fit(x, y)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--learner", choices=sorted(LEARNERS), action="append")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    shape = f"{options.segments:,} segments x {options.rows} rows x {options.features} features"
    table = Table(title=f"{shape}, {cores} cores (medians of {options.repeat})")
    for name in ("learner", "bare loop, s", "fleet, s", "fleet over bare"):
        table.add_column(name, justify="right")
    features, target = made_up(options.segments, options.rows, options.features)
    for learner in options.learner or sorted(LEARNERS):
        bare, fleet = [], []
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
            write_table(Path(folder), features, target)
            with Parallel(n_jobs=cores) as pool:
                pool(delayed(one)(LEARNERS[learner], features[0], target[0]) for _ in range(cores))
                for _ in range(options.repeat):
                    jobs = [
                        delayed(one)(LEARNERS[learner], x, y)
                        for x, y in zip(features, target, strict=True)
                    ]
                    bare.append(seconds(lambda: pool(jobs)))  # noqa: B023
                    fleet.append(seconds(lambda: train_fleet(Path(folder), learner)))  # noqa: B023
        middle = [float(np.median(times)) for times in (bare, fleet)]
        row = [f"{m:.2f}" for m in middle]
        table.add_row(learner, *row, f"{middle[1] / middle[0]:.2f}")
    Console().print(table)


def train_fleet(folder: Path, learner: str) -> None:
    """From the table to committed members."""
    from shoal.lake import Lake
    from shoal.models import collecting_models, model
    from shoal.training import train

    with collecting_models() as found:
        declare = model(table="gold.sales", target="sales", by=["store"], time="day", name=learner)
        declare(LEARNERS[learner])
    trained = train(found[0], Lake(folder / "lake"))
    assert trained.metrics["segments_failed"] == 0, trained.failures


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()

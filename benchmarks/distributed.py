"""Two workers against one, and what a network costs as a member of a fleet.

    python benchmarks/distributed.py [--rows 20000] [--members 500]

Both groups train the same net on the same rows, in turns, and are measured inside the workers: the
seconds between the first and the last epoch, so neither starting processes nor reading counts. A
figure is the median of the turns. On a busy machine only ratios of one run tell something.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from shoal.lake import Lake
from shoal.models import Fleet, collecting_models, model
from shoal.training import train
from shoal.training.distributed import fit_together
from shoal.training.distributed.launch import launch
from shoal.training.plan import Plan
from shoal.training.source import open_source


def net(width: int, epochs: int, batch: int):
    def make():
        import skorch
        import torch
        from torch import nn

        layers = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )
        return skorch.NeuralNetRegressor(
            layers, optimizer=torch.optim.SGD, lr=0.01, max_epochs=epochs, batch_size=batch,
            iterator_train__shuffle=True, train_split=None, verbose=0,
        )  # fmt: skip

    return make


def declare(function, **fields):
    with collecting_models() as found:
        model(table="gold.rows", target="y", **fields)(function)
    return found[0]


def rate(lake: Lake, rows: int, workers: int, options: argparse.Namespace) -> float:
    """Samples a second of one training."""
    declared = declare(net(options.width, options.epochs, options.batch), name="net",
                       workers=workers, holdout=0)  # fmt: skip
    plan = Plan(declared, open_source(declared, lake, None))
    times: list[float] = []

    def run(folder: Path, size: int, kind: str, _: object) -> None:
        launch(folder, size, kind, lambda _: times.append(time.perf_counter()))

    with tempfile.TemporaryDirectory() as folder:
        fit_together(plan, Path(folder), None, run)
    return rows * (len(times) - 1) / (times[-1] - times[0])


def members(lake: Lake) -> None:
    """A fleet of small nets: seconds and bytes a member."""

    def small():
        import skorch
        import torch
        from torch import nn

        layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
        return skorch.NeuralNetRegressor(layers, optimizer=torch.optim.Adam, lr=0.01, max_epochs=10,
                                         batch_size=64, train_split=None, verbose=0)  # fmt: skip

    declared = declare(small, name="nets", by=["k"], features=[f"x{i:02}" for i in range(8)],
                       holdout=0)  # fmt: skip
    trained = train(declared, lake)
    rows = lake.table(trained.members_table).scan().filter(level=0).collect()
    print(f"{rows.height} nets of 8-16-1, 200 rows and 10 epochs each:")
    print(f"  core-seconds a member, median  {rows['core_seconds'].median():.3f}")
    print(f"  bytes of state a member        {rows['state_bytes'].median():.0f}")
    fleet, keys = Fleet.open(trained.artifact), rows["segment"].to_list()[:50]
    begun = time.perf_counter()
    for key in keys:
        fleet.estimator(key)
    print(f"  milliseconds to decode one     {(time.perf_counter() - begun) / len(keys) * 1e3:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--members", type=int, default=500)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    count = max(options.rows, options.members * 200)
    x = random.normal(size=(count, 64))
    y = np.tanh(x @ random.normal(size=64) / 8)
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        columns = {f"x{i:02}": x[: options.rows, i] for i in range(64)}
        lake.table("gold.rows").append(pa.table({**columns, "y": y[: options.rows]}))
        rates: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(options.turns):
            for workers, found in rates.items():
                found.append(rate(lake, options.rows, workers, options))
        one, two = (statistics.median(found) for found in rates.values())
        print(f"net of 64-{options.width}-{options.width}-1, global batch {options.batch}:")
        print(f"  samples/s with 1 worker   {one:,.0f}")
        print(f"  samples/s with 2 workers  {two:,.0f}   ({two / one:.2f} times)")
    if options.members:
        with tempfile.TemporaryDirectory() as folder:
            lake = Lake(folder)
            columns = {f"x{i:02}": x[: options.members * 200, i] for i in range(8)}
            keys = np.repeat(np.arange(options.members), 200)
            lake.table("gold.rows").append(
                pa.table({"k": keys, **columns, "y": y[: options.members * 200]})
            )
            members(lake)


if __name__ == "__main__":
    main()

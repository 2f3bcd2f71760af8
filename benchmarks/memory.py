"""Peak memory and time per segment of a training, for few and for many segments.

A fresh process makes each table and another one trains on it; a third watches that one and its
workers (``/proc``, so Linux only). Anonymous memory is what the training itself holds; pages of the
memory-mapped rows file are counted apart, for the kernel may drop them at any time:

    python benchmarks/memory.py
    python benchmarks/memory.py --shape 1000000x10 --budget 200
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs="*", default=["5000x100", "100000x100"])
    parser.add_argument("--features", type=int, default=8, help="feature columns")
    parser.add_argument("--budget", type=int, default=None, help="megabytes for sorting")
    parser.add_argument("--only-sort", action="store_true", help="plan and sort, fit nothing")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step(options.step[0], Path(options.step[1]), options)
        return
    shown = Table(title=f"{options.features} features, {os.cpu_count()} cores")
    for name in (
        "segments x rows",
        "data MB",
        "anonymous MB",
        "of data",
        "mapped MB",
        "s",
        "ms/segment",
    ):
        shown.add_column(name, justify="right")
    for shape in options.shape:
        segments, rows = (int(n) for n in shape.split("x"))
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
            child("make", shape, folder, options).wait()
            begun = time.perf_counter()
            held, mapped = watched(child("train", shape, folder, options))
            took = time.perf_counter() - begun
        data = segments * rows * 8 * (options.features + 2) / 1e6
        numbers = [data, held, held / data, mapped, took, took / segments * 1e3]
        shown.add_row(shape, *(f"{n:,.2f}" for n in numbers))
    Console().print(shown)


def child(
    what: str, shape: str, folder: str, options: argparse.Namespace
) -> subprocess.Popen[bytes]:
    """This script again, for one step."""
    command = [sys.executable, __file__, "--shape", shape, "--features", str(options.features)]
    command += ["--only-sort"] if options.only_sort else []
    environment = dict(os.environ)
    if options.budget:
        environment["SHOAL_SORT_MEMORY"] = str(options.budget * 1_000_000)
    return subprocess.Popen([*command, "--step", what, folder], env=environment)


def step(what: str, folder: Path, options: argparse.Namespace) -> None:
    """Make the table, or train on it."""
    from shoal.lake import Lake
    from shoal.models import collecting_models, model

    segments, rows = (int(n) for n in options.shape[0].split("x"))
    lake = Lake(folder / "lake")
    if what == "make":
        make(lake, segments, rows, options.features)
        return
    with collecting_models() as found:
        model(
            table="gold.sales", target="sales", by=["store"], time="day", name="sales", min_rows=5
        )(estimator)
    if options.only_sort:
        from shoal.training.plan import Plan
        from shoal.training.sorting import sort_rows
        from shoal.training.source import open_source

        plan = Plan(found[0], open_source(found[0], lake, None))
        sort_rows(found[0], plan.source, plan.target, folder / "rows.arrow")
        return
    from shoal.training import train

    train(found[0], lake)


def make(lake: Any, segments: int, rows: int, width: int) -> None:
    """Each file holds the next few days of all segments, shuffled."""
    import pyarrow as pa

    random = np.random.default_rng(0)
    names = pa.array([f"store-{i:07d}" for i in range(segments)])
    days = max(2_000_000 // segments, 1)
    for first in range(0, rows, days):
        day, segment = np.divmod(np.arange(min(days, rows - first) * segments), segments)
        order = random.permutation(len(day))
        features = random.normal(size=(len(day), width))
        lake.table("gold.sales").append(
            pa.table(
                {
                    "store": names.take(pa.array(segment[order])),
                    "day": pa.array((first + day[order]).astype(np.int32)).cast(pa.date32()),
                    **{f"x{i}": features[:, i] for i in range(width)},
                    "sales": features.sum(axis=1) + random.normal(size=len(day)),
                }
            )
        )


def estimator() -> Any:
    """What is fitted."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), Ridge())


def watched(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """The most anonymous and mapped megabytes that a process and its children ever shared out."""
    most = [0.0, 0.0]
    while process.poll() is None:
        held = [usage(pid) for pid in tree(process.pid)]
        for i in range(2):
            most[i] = max(most[i], sum(each[i] for each in held))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.returncode)
    return most[0], most[1]


def tree(root: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, wave = [root], [root]
    while wave:
        wave = [pid for pid, parent in parents.items() if parent in wave]
        found += wave
    return found


def usage(pid: int) -> tuple[float, float]:
    """Proportional set size in megabytes: anonymous, and of files."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return sizes.get("Pss_Anon", 0) / 1e3, sizes.get("Pss_File", 0) / 1e3


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()

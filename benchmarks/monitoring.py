"""Drift of thousands of segments at once, against scipy one segment and column after the other.

    python benchmarks/monitoring.py [--segments 10000] [--columns 8] [--rows 200] [--new 50]

The peer computes the Kolmogorov-Smirnov statistic alone, on arrays that lie ready, for a sample of
the segments. Prints seconds, tests a second, and the largest difference of both statistics.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from scipy import stats

from shoal.monitoring import drift, judge, profile

SAMPLE = 500


def rows(segments: int, columns: int, each: int, seed: int) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    key = random.permutation(np.repeat(np.arange(segments), each))
    values = {f"x{i}": random.normal(size=len(key)) for i in range(columns)}
    return pl.DataFrame({"meter": key, **values}).with_columns(
        pl.format("m{}", pl.col("meter")).alias("meter")
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--new", type=int, default=50)
    given = parser.parse_args()
    before = rows(given.segments, given.columns, given.rows, 0)
    now = rows(given.segments, given.columns, given.new, 1)
    names = [f"x{i}" for i in range(given.columns)]

    took = {}

    def timed(what, function):
        begun = time.perf_counter()
        found = function()
        took[what] = time.perf_counter() - begun
        return found

    learned = timed(
        "sketch of what was learned (once)", lambda: profile(before.lazy(), ["meter"], names)
    )
    window = timed("sketch of the window", lambda: profile(now.lazy(), ["meter"], names))
    told = timed("distances", lambda: drift(learned, window))

    def alarms():
        keys = list(
            zip(
                ["feature"] * len(told),
                told["segment"].to_pylist(),
                told["column"].to_pylist(),
                strict=True,
            )
        )
        effect = np.nan_to_num(np.asarray(told["psi"])) / 0.2
        return judge(keys, np.asarray(told["p"]), effect, {}, alpha=0.05)

    judged = timed("alarms", alarms)

    sample = [f"m{i}" for i in range(min(SAMPLE, given.segments))]
    groups = [
        {
            key[0]: part
            for key, part in frame.filter(pl.col("meter").is_in(sample)).group_by("meter")
        }
        for frame in (before, now)
    ]
    pairs = [
        (key, name, groups[0][key][name].to_numpy(), groups[1][key][name].to_numpy())
        for key in sample
        for name in names
    ]
    begun = time.perf_counter()
    wanted = {(key, name): stats.ks_2samp(a, b).statistic for key, name, a, b in pairs}
    peer = (time.perf_counter() - begun) * given.segments / len(sample)
    ours = dict(
        zip(
            zip(told["segment"].to_pylist(), told["column"].to_pylist(), strict=True),
            told["ks"].to_pylist(),
            strict=True,
        )
    )
    far = max(abs(value - ours[f'["{key}"]', name]) for (key, name), value in wanted.items())

    tests = given.segments * given.columns
    each = sum(seconds for what, seconds in took.items() if "once" not in what)
    grid = Table(
        title=f"{given.segments:,} segments x {given.columns} columns, {given.rows} rows learned, {given.new} new"
    )
    for column in ("what", "seconds", "tests/s", "ratio"):
        grid.add_column(column, justify="left" if column == "what" else "right")
    for what, seconds in took.items():
        grid.add_row(what, f"{seconds:.2f}", "", "")
    grid.add_row("a window in all", f"{each:.2f}", f"{tests / each:,.0f}", "1.00")
    grid.add_row(
        f"scipy.stats.ks_2samp in a loop (from {len(sample)} segments)",
        f"{peer:.1f}",
        f"{tests / peer:,.0f}",
        f"{peer / each:.1f}",
    )
    grid.caption = (
        f"largest difference of the statistics {far:.4f}; false alarms {int(judged.alarm.sum())}"
    )
    Console(width=110).print(grid)


if __name__ == "__main__":
    main()

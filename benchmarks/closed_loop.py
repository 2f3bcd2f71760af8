"""The closed loop on the energy example: months go by, one home in ten gets a heat pump, and
what drifts is found, trained again and promoted; beside it the same project that is never trained again.

    python benchmarks/closed_loop.py [--meters 200] [--weeks 13] [--pump-week 5]

Each week's readings are scored by the champion of the week before. Prints the mean absolute error
(kWh) of the meters that changed and of the others, with and without the loop, and what it did.
"""

from __future__ import annotations

import argparse
import datetime as dt
import runpy
import tempfile
import time
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from shoal.cli.project import write_template
from shoal.workspace import Workspace
from shoal.workspace.watch import retrain_drifted, settle

FIRST_DAYS = 56
BEGIN = dt.date(2014, 8, 24)


def week_error(space: Workspace, until: dt.date, changed: set[str]) -> tuple[float, float]:
    """The mean absolute error of the week that ends with a day: changed meters, and the others."""
    start = dt.datetime.combine(until - dt.timedelta(days=6), dt.time(), dt.UTC) - dt.timedelta(
        hours=10
    )
    end = start + dt.timedelta(days=7)
    week = pl.col("read_at").is_between(start, end, closed="left")
    truth = space.lake.table("silver.readings").scan().filter(week)
    said = space.lake.table("gold.load_predictions").scan().filter(week)
    rows = truth.join(said, on=["meter_id", "read_at"]).select(
        pl.col("meter_id").is_in(list(changed)).alias("changed"),
        (pl.col("kwh") - pl.col("prediction")).abs().alias("error"),
    )
    found = dict(rows.group_by("changed").agg(pl.col("error").mean()).collect().iter_rows())
    return found.get(True, float("nan")), found.get(False, float("nan"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--meters", type=int, default=200)
    parser.add_argument("--weeks", type=int, default=13)
    parser.add_argument("--pump-week", type=int, default=5)
    given = parser.parse_args()
    pumps = BEGIN + dt.timedelta(days=7 * (given.pump_week - 1) + 1)
    grid = Table(title=f"{given.meters} meters; heat pumps from week {given.pump_week}")
    for name in ("week", "changed: loop", "changed: alone", "others: loop", "others: alone",
                 "alarms", "opened", "closed", "fitted again", "champion", "loop s"):  # fmt: skip
        grid.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        roots = [Path(folder) / name for name in ("loop", "alone")]
        for root in roots:
            write_template("energy", root, "energy")
        module = runpy.run_path(str(roots[0] / "land.py"))
        made_up = module["Meters"](given.meters, 0)
        changed = {name for name, has in zip(made_up.ids, made_up.pump.ravel(), strict=True) if has}
        for week in range(given.weeks + 1):
            until = BEGIN + dt.timedelta(days=7 * week)
            days = FIRST_DAYS if week == 0 else 7
            errors, told, fitted, champion, seconds = [], None, "", "", 0.0
            for root in roots:
                module["land"](root / "landing", given.meters, days, until, 0, None, pumps)
                with Workspace.open(root) as space:
                    report = space.run(space.options(), models=False)
                    assert not report.failed, report
                    if week == 0:
                        (trained,) = space.train()
                        assert trained.status == "trained", trained.error
                        space.score()
                        continue
                    (scored,) = space.score()
                    assert scored.status == "scored", scored
                    errors.append(week_error(space, until, changed))
                    if root.name == "loop":
                        begun = time.perf_counter()
                        (told,) = space.monitor()
                        assert told.status == "watched", told
                        settled = settle(space, "load")
                        again = retrain_drifted(space, "load", promote=True)
                        seconds = time.perf_counter() - begun
                        champion = str(space.tracker.resolve("load@champion").version)
                        assert not settled or "version" in settled, settled
                        if again is not None:
                            assert again.status == "trained", again.error
                            fitted = (
                                again.reason.split(":")[-1].split(" segments")[0].split(" of ")[0]
                            )
            if told is not None:
                (with_changed, with_others), (without_changed, without_others) = errors
                grid.add_row(
                    str(week),
                    *(f"{e:.4f}" for e in (with_changed, without_changed, with_others, without_others)),
                    str(told.alarms), str(told.opened), str(told.closed), fitted, champion,
                    f"{seconds:.1f}",
                )  # fmt: skip
        grid.caption = f"{len(changed)} meters changed"
    Console(width=130).print(grid)


if __name__ == "__main__":
    main()

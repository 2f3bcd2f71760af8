"""The energy example left to itself: some roofs get solar panels, and the loop learns of them."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from shoal.lake import Lake

pytestmark = pytest.mark.heavy

BEGIN = dt.date(2014, 9, 14)
PANELS = BEGIN + dt.timedelta(days=1)
WEEKS = 5
METERS = "30"


def shoal(root: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "shoal.cli", *words],
        cwd=root, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def land(root: Path, days: int, until: dt.date) -> None:
    command = [sys.executable, "land.py", "--meters", METERS, "--days", str(days)]
    command += ["--until", str(until), "--solar", str(PANELS)]
    subprocess.run(command, cwd=root, check=True, capture_output=True, env=os.environ)


def week_errors(root: Path, until: dt.date) -> pl.DataFrame:
    """Each meter's mean absolute error of the week that ends with a day."""
    lake = Lake(root / "lake")
    end = dt.datetime.combine(until, dt.time(14), dt.UTC)  # the market's midnight
    week = pl.col("read_at").is_between(end - dt.timedelta(days=7), end, closed="left")
    truth = lake.table("silver.readings").scan().filter(week)
    said = lake.table("gold.load_predictions").scan().filter(week)
    rows = truth.join(said, on=["meter_id", "read_at"])
    error = (pl.col("kwh") - pl.col("prediction")).abs().mean().round(9)
    return rows.group_by("meter_id").agg(error.alias("error")).sort("meter_id").collect()


@pytest.mark.timeout(900)
def test_the_loop_runs_unattended(tmp_path):
    roots = {name: tmp_path / name for name in ("loop", "alone")}
    errors: dict[str, list[pl.DataFrame]] = {name: [] for name in roots}
    told = []
    for name, root in roots.items():
        shoal(tmp_path, "init", name, "--template", "energy")
        land(root, 35, BEGIN)
        shoal(root, "run")
        for week in range(1, WEEKS + 1):
            until = BEGIN + dt.timedelta(days=7 * week)
            land(root, 7, until)
            shoal(root, "run", "--tables-only")
            shoal(root, "score")
            errors[name].append(week_errors(root, until))
            if name == "loop":
                said = shoal(root, "monitor", "--retrain", "--promote", "--json")
                told.append(json.loads(said))
    fitted = [one for each in told for one in each["trained"]]
    assert fitted
    assert all(one["status"] == "trained" for one in fitted)
    # Before it learned, both predict the same; afterwards the loop is better where roofs changed.
    assert errors["loop"][0].equals(errors["alone"][0])
    both = errors["alone"][-1].join(errors["loop"][-1], on="meter_id", suffix="_loop")
    moved = both.filter(pl.col("error") != pl.col("error_loop"))
    assert 0 < moved.height < 10, moved
    assert moved["error_loop"].sum() < 0.8 * moved["error"].sum(), moved
    lake = Lake(roots["loop"] / "lake")
    moves = lake.table("shoal.promotions").scan().filter(pl.col("alias") == "champion").collect()
    gates = [json.loads(text) for text in moves["evidence"].drop_nulls().to_list()]
    assert any(gate.get("gate") for gate in gates), moves

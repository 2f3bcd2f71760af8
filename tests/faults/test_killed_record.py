"""A run that is killed between a table's commit and its own end loses no expectation count."""

import time

import pytest

from projects import SmallProject

SOURCE = """
@dp.table(name="bronze.events")
@shoal.expect("even", "id % 2 = 0")
def bronze():
    return spark.readStream.schema("id INT").json("landing")

@dp.materialized_view(name="gold.total")
@shoal.polars("bronze.events")
def gold(events):
    while Path("hold").exists():
        time.sleep(0.01)
    return events.select(pl.len().alias("n"))

import time
from pathlib import Path
import polars as pl
"""


@pytest.mark.slow
def test_the_next_run_takes_down_what_a_killed_one_counted(tmp_path, warm, engine):
    project = SmallProject(tmp_path / "p", engine)
    project.python(SOURCE)
    project.land("0.json", [{"id": i} for i in range(10)])
    hold = project.root / "hold"
    hold.touch()
    run = warm.start(project.root)
    commit = project.storage / "bronze/events/_delta_log/00000000000000000000.json"
    while not commit.exists():
        time.sleep(0.001)
    run.kill()
    assert run.wait() == -9
    assert not project.lake.table("shoal.expectations").exists()
    note = project.storage / "_shoal/run.json"
    assert note.exists()
    hold.unlink()
    project.land("1.json", [{"id": 11}])
    project.ok()
    assert not note.exists()
    found = project.rows("shoal.expectations", "version", "passed", "failed")
    assert found == [(0, 5, 5), (1, 0, 1)]
    assert len(set(project.rows("shoal.expectations", "run_id"))) == 2
    with project.open() as space:
        ends = [e["details"]["status"] for e in space.events() if e["event_type"] == "run_end"]
        (quality,) = space.quality()
    assert ends == ["killed", "completed"]
    assert (quality.runs, quality.passed, quality.failed) == (2, 5, 6)
    assert quality.rates == (0.5, 0.0)

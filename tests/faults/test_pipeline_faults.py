"""A run is interrupted, killed, or meets another: tables stay whole, and the next run completes.

The runs are the real command (``shoal run``) in processes of their own. What each table must hold
in the end is what an uninterrupted run over the same files gives.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from left import litter

from projects import SmallProject

SOURCES = """
import pathlib, time

@F.udf("bigint")
def slowly(x):
    # Says that rows of the run are in work, so that a test can stop it there.
    pathlib.Path({started!r}).touch()
    time.sleep({pause})
    return x

@dp.table(name="bronze.events")
def bronze():
    return spark.readStream.schema("id BIGINT, kind STRING").json("landing")

@dp.table(name="silver.events", partition_cols=["kind"])
@shoal.expect_or_drop("even", "id % 10 <> 0")
def silver():
    return spark.readStream.table("bronze.events").withColumn("id", slowly("id"))

@dp.materialized_view(name="gold.kinds")
def gold():
    rows = spark.read.table("silver.events").groupBy("kind")
    return rows.agg(F.count("*").alias("n"), F.sum("id").alias("total"))
"""
FILES, ROWS = 4, 25


def make(folder: Path, pause: float = 0.0) -> SmallProject:
    project = SmallProject(folder)
    project.python(SOURCES.format(started=str(folder / "started"), pause=pause))
    return project


def land(project: SmallProject, batch: int) -> None:
    for file in range(FILES):
        first = (batch * FILES + file) * ROWS
        rows = [{"id": i, "kind": "abc"[i % 3]} for i in range(first, first + ROWS)]
        project.land(f"{batch}-{file}.json", rows)


def start(project: SmallProject, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "shoal.cli", "run", "--project", str(project.root),
         "--tables-only", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip


def end(run: subprocess.Popen, code: int = 0) -> str:
    out, err = run.communicate(timeout=120)
    assert run.returncode == code, f"{run.returncode}\n{out}\n{err}"
    return out + err


def wait_for(path: Path, run: subprocess.Popen, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < until, f"no {path.name} after {seconds} s"
        time.sleep(0.005)


def tables(project: SmallProject) -> dict[str, list]:
    return {
        name: project.rows(name, *columns)
        for name, columns in {
            "bronze.events": ("id", "kind"),
            "silver.events": ("id", "kind"),
            "gold.kinds": ("kind", "n", "total"),
        }.items()
    }


def expected(batches: int) -> dict[str, list]:
    """What uninterrupted runs give; computed here by hand, so that both cannot share a mistake."""
    ids = range(batches * FILES * ROWS)
    bronze = [(i, "abc"[i % 3]) for i in ids]
    silver = [row for row in bronze if row[0] % 10]
    kinds = {kind: [i for i, k in silver if k == kind] for kind in "abc"}
    return {
        "bronze.events": sorted(bronze, key=repr),
        "silver.events": sorted(silver, key=repr),
        "gold.kinds": sorted(((k, len(v), sum(v)) for k, v in kinds.items()), key=repr),
    }


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_stops_between_commits_and_the_next_completes(tmp_path, how) -> None:
    project = make(tmp_path / "p", pause=0.02)
    land(project, 0)
    run = start(project)
    wait_for(project.root / "started", run)
    run.send_signal(how)
    told = end(run, 130)
    assert "Interrupted. Every table is at a whole version; run again to go on." in told
    assert "Traceback" not in told
    assert "gold.kinds" not in project.versions()
    assert litter(project.lake) == set()
    end(start(project))
    assert tables(project) == expected(1)
    before = project.versions()
    end(start(project))
    assert project.versions() == before


def kill_after(project: SmallProject, seconds: float) -> None:
    run = start(project)
    try:
        run.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        run.kill()
    run.communicate()


def check_kills(folder: Path, moments: list[float]) -> None:
    project = make(folder)
    for batch, moment in enumerate(moments):
        land(project, batch)
        kill_after(project, moment)
        for table in project.lake.tables():
            if table.table_name.schema != "shoal":
                assert len(table.scan().collect()) == table.size()[0], "every version is whole"
    found = json.loads(end(start(project, "--json")))
    assert {table["status"] for table in found["tables"]} <= {"refreshed", "unchanged"}
    assert tables(project) == expected(len(moments))


def run_time(folder: Path) -> float:
    project = make(folder)
    land(project, 0)
    begun = time.perf_counter()
    end(start(project))
    return time.perf_counter() - begun


def test_killed_runs_lose_and_double_nothing(tmp_path) -> None:
    """Killed while rows are in work, and at the end, around the commits."""
    whole = run_time(tmp_path / "clock")
    check_kills(tmp_path / "p", [whole * 0.8, whole * 0.93])


def test_a_run_killed_in_the_middle_of_its_work_left_its_commits(tmp_path) -> None:
    project = make(tmp_path / "p", pause=0.02)
    land(project, 0)
    run = start(project)
    wait_for(project.root / "started", run)
    run.kill()
    run.communicate()
    assert "bronze.events" in project.versions()
    assert "silver.events" not in project.versions()
    end(start(project))
    assert tables(project) == expected(1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_runs_killed_at_random_moments_lose_and_double_nothing(tmp_path, seed) -> None:
    whole = run_time(tmp_path / "clock")
    # Most of a run is the start of its process: the moments are drawn from where tables change.
    draw = random.Random(seed)
    check_kills(tmp_path / "p", [draw.uniform(0.5, 1.0) * whole for _ in range(8)])


def test_of_two_runs_at_once_one_stops_with_a_message(tmp_path) -> None:
    project = make(tmp_path / "p", pause=0.05)
    land(project, 0)
    first = start(project)
    wait_for(project.root / "started", first)
    second = start(project)
    told = end(second, 75)
    assert f"Another run (process {first.pid}) is writing to {project.storage}" in told
    assert "Wait until it ends, then run again; nothing was changed." in told
    end(first)
    assert tables(project) == expected(1)
    end(start(project))
    assert tables(project) == expected(1)


def test_a_run_whose_disk_folder_is_read_only_fails_cleanly(tmp_path) -> None:
    """The lake's place is taken by a file: an error, no traceback, and the project still works."""
    project = make(tmp_path / "p")
    land(project, 0)
    project.storage.mkdir()
    (project.storage / "gold").write_text("in the way")
    told = end(start(project), 1)
    assert "Traceback" not in told
    assert tables_of(project) == {"bronze.events", "silver.events"}
    (project.storage / "gold").unlink()
    end(start(project))
    assert tables(project) == expected(1)


def tables_of(project: SmallProject) -> set[str]:
    return {name for name in project.versions() if not name.startswith("shoal.")}

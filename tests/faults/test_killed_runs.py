"""Runs are killed at random moments while files keep arriving: nothing is lost or doubled.

SIGKILL comes at moments drawn evenly over the time that a whole run takes, seeded. After each
following complete run every table holds what it holds in another lake whose runs were never
interrupted, over the same files; and vacuum leaves no file that no version names.
"""

import datetime as dt
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable
from left import litter
from polars.testing import assert_frame_equal
from warm import Warm

from projects import SmallProject
from shoal.lake import abandoned, vacuum

# How many runs the test kills: a few with every change, hundreds before a release.
KILLS = int(os.environ.get("SHOAL_KILLS", "10"))
FILES, ROWS = 3, 40
TABLES = """
@dp.table(name="bronze.events")
def bronze():
    return spark.readStream.schema("id BIGINT, kind STRING, amount BIGINT").json("landing/events")

@dp.table(name="silver.events", partition_cols=["kind"])
@shoal.expect_or_drop("even", "id % 10 <> 0")
@shoal.expect("paid", "amount > 5")
def silver():
    return spark.readStream.table("bronze.events").withColumn("twice", F.col("amount") * 2)

@dp.materialized_view(name="gold.kinds")
def kinds():
    rows = spark.read.table("silver.events").groupBy("kind")
    return rows.agg(F.count("*").alias("n"), F.sum("amount").alias("total"))

@dp.materialized_view(name="gold.large")
def large():
    return spark.read.table("silver.events").where("amount > 90").select("id", "kind", "twice")
"""
CHANGES = """
@dp.table(name="bronze.changes")
def changes():
    columns = "id BIGINT, name STRING, city STRING, op STRING, seq BIGINT"
    return spark.readStream.schema(columns).json("landing/changes")

dp.create_streaming_table("silver.people")
dp.create_auto_cdc_flow(
    target="silver.people", source="bronze.changes", keys=["id"], sequence_by="seq",
    apply_as_deletes="op = 'delete'", except_column_list=["op", "seq"], stored_as_scd_type=1,
)

@dp.materialized_view(name="gold.cities")
def cities():
    return spark.read.table("silver.people").groupBy("city").agg(F.count("*").alias("n"))
"""
VERSIONS = """
CREATE STREAMING TABLE silver.people_history;
CREATE FLOW history AS AUTO CDC INTO silver.people_history
FROM STREAM(bronze.changes) KEYS (id) APPLY AS DELETE WHEN op = 'delete'
SEQUENCE BY seq COLUMNS * EXCEPT (op, seq) STORED AS SCD TYPE 2;
"""


def make(root: Path) -> SmallProject:
    project = SmallProject(root)
    project.python(TABLES)
    project.python(CHANGES, "changes.py")
    project.sql(VERSIONS, "versions.sql")
    return project


def land(batch: int, *projects: SmallProject) -> None:
    """The same new files for each project."""
    draw = random.Random(batch)
    for file in range(FILES):
        first = (batch * FILES + file) * ROWS
        rows = [
            {"id": i, "kind": draw.choice("abc"), "amount": draw.randrange(100)}
            for i in range(first, first + ROWS)
        ]
        for project in projects:
            project.land(f"events/{batch:04}-{file}.json", rows)
    changes = [
        {
            "id": draw.randrange(30),
            "name": f"n{batch * 10 + i}",
            "city": draw.choice(["Rome", "Oslo", "Lima"]),
            "op": "delete" if draw.random() < 0.2 else "upsert",
            "seq": batch * 10 + i,
        }
        for i in range(10)
    ]
    draw.shuffle(changes)
    for project in projects:
        project.land(f"changes/{batch:04}.json", changes)


def content(project: SmallProject) -> dict[str, pl.DataFrame]:
    """Every declared table's rows, in one order; each table is a whole version."""
    found = {}
    for table in project.lake.tables():
        if table.table_name.schema != "shoal":
            frame = table.scan().collect()
            found[table.name] = frame.select(sorted(frame.columns)).sort(pl.all())
    return found


def assert_equal(project: SmallProject, whole: SmallProject) -> None:
    """Both hold the same, and what can be told without Shoal is so."""
    ours, theirs = content(project), content(whole)
    assert ours.keys() == theirs.keys()
    for name, frame in ours.items():
        assert_frame_equal(frame, theirs[name], check_column_order=False)
    landed = landed_rows(project, "events")
    kept = [row for row in landed if row["id"] % 10]
    assert sorted(ours["bronze.events"]["id"]) == sorted(row["id"] for row in landed)
    assert sorted(ours["silver.events"]["id"]) == sorted(row["id"] for row in kept)
    assert dict(ours["gold.kinds"].select("kind", "n").rows()) == Counter(r["kind"] for r in kept)
    history = versions(landed_rows(project, "changes"))
    people = [(key, name, city) for key, name, city, _, end in history if end is None]
    assert ours["silver.people"].select("id", "name", "city").sort(pl.all()).rows() == people
    columns = ("id", "name", "city", "__START_AT", "__END_AT")
    assert ours["silver.people_history"].select(columns).sort("id", "__START_AT").rows() == history


def landed_rows(project: SmallProject, folder: str) -> list[dict[str, Any]]:
    files = sorted((project.root / "landing" / folder).glob("*.json"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def versions(changes: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Each key's versions: its values, from which change on they hold, and until which."""
    found = []
    for key in sorted({change["id"] for change in changes}):
        own = sorted((c for c in changes if c["id"] == key), key=lambda change: change["seq"])
        ends = [change["seq"] for change in own[1:]] + [None]
        for change, end in zip(own, ends, strict=True):
            if change["op"] != "delete":
                found.append((key, change["name"], change["city"], change["seq"], end))
    return found


def assert_clean_after_vacuum(project: SmallProject) -> None:
    """What killed runs left goes with a vacuum; what the tables need stays."""
    before = content(project)
    with project.lake.writing():
        for table in project.lake.tables():
            vacuum(table, dt.timedelta(0))
        abandoned(project.lake)
    assert litter(project.lake) == set()
    for table in project.lake.tables():
        folder = Path(table.path)
        now = {Path(path) for path in DeltaTable(table.path).file_uris()}
        assert set(folder.rglob("part-*/**/*.parquet")) <= now, "old versions are gone too"
    for name, frame in content(project).items():
        assert_frame_equal(frame, before[name])


def whole_time(warm: Warm, folder: Path) -> float:
    """Seconds that a run takes which refreshes everything incrementally."""
    project = make(folder)
    for batch in range(2):
        land(batch, project)
        begun = time.monotonic()
        warm.start(project.root).ok()
    return time.monotonic() - begun


def check(warm: Warm, folder: Path, *, kills: int, seed: int) -> None:
    seconds = whole_time(warm, folder / "clock")
    killed, whole = make(folder / "killed"), make(folder / "whole")
    draw = random.Random(seed)
    reached = Counter()
    for batch in range(kills):
        land(batch, killed, whole)
        before = killed.versions()
        run = warm.killed(killed.root, draw.uniform(0.2, 1.4) * seconds)
        assert run.code in (0, -9), run.told()
        after = killed.versions()
        reached[sum(after[name] != before.get(name) for name in after)] += 1
        content(killed)  # what a killed run left can be read
        if batch % 10 == 9 or batch == kills - 1:
            for project in (killed, whole):
                warm.start(project.root).ok()
            assert_equal(killed, whole)
    print(f"{kills} kills within {seconds:.2f} s; tables that had a new version: {dict(reached)}")
    versions = killed.versions()
    warm.start(killed.root).ok()
    assert killed.versions() == versions, "nothing is left to do"
    assert_clean_after_vacuum(killed)
    land(kills, killed, whole)
    for project in (killed, whole):
        warm.start(project.root).ok()
    assert_equal(killed, whole)


@pytest.mark.timeout(1800)  # a hundred kills take some minutes
@pytest.mark.parametrize("seed", [0])
def test_runs_killed_at_random_moments_lose_and_double_nothing(tmp_path, warm, seed) -> None:
    check(warm, tmp_path, kills=KILLS, seed=seed)


def test_the_first_run_is_killed_until_it_succeeds(tmp_path, warm) -> None:
    """Killed later and later, from before anything exists; each time the same project goes on."""
    killed, whole = make(tmp_path / "killed"), make(tmp_path / "whole")
    land(0, killed, whole)
    begun = time.monotonic()
    warm.start(whole.root).ok()
    seconds = time.monotonic() - begun
    for step in range(6):
        warm.killed(killed.root, seconds * (0.3 + 0.12 * step))
    warm.start(killed.root).ok()
    assert_equal(killed, whole)
    assert_clean_after_vacuum(killed)


@pytest.mark.slow
def test_the_command_itself_is_killed_at_random_moments(tmp_path) -> None:
    """As above, but each run is the command in a process that starts from nothing."""
    killed, whole = make(tmp_path / "killed"), make(tmp_path / "whole")

    def start(project: SmallProject) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "shoal.cli", "run", "--tables-only"]
        return subprocess.Popen(command, cwd=project.root, stdout=subprocess.DEVNULL)

    land(0, killed, whole)
    begun = time.monotonic()
    assert start(whole).wait() == 0
    seconds = time.monotonic() - begun
    draw = random.Random(1)
    for batch in range(1, 4):
        land(batch, killed, whole)
        run = start(killed)
        try:
            run.wait(timeout=draw.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
    for project in (killed, whole):
        assert start(project).wait() == 0
    assert_equal(killed, whole)
    assert_clean_after_vacuum(killed)

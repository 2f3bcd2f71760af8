"""Runs are killed at random moments while files keep arriving: nothing is lost or doubled.

SIGKILL comes at moments drawn evenly over the time that a whole run takes, seeded. After each
following complete run every table holds what it holds in another lake whose runs were never
interrupted, over the same files; and vacuum leaves no file that no version names.
"""

import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal
from warm import Warm

from projects import SmallProject

# How many runs the test kills: a few with every change, hundreds before a release.
KILLS = int(os.environ.get("SHOAL_KILLS", "12"))
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
HAS_CDC = importlib.util.find_spec("shoal.pipeline.cdc") is not None


def make(root: Path) -> SmallProject:
    project = SmallProject(root)
    project.python(TABLES)
    if HAS_CDC:
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
            "name": f"n{draw.randrange(1000)}",
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
    landed = [
        json.loads(line)
        for file in sorted((project.root / "landing/events").glob("*.json"))
        for line in file.read_text().splitlines()
    ]
    kept = [row for row in landed if row["id"] % 10]
    assert sorted(ours["bronze.events"]["id"]) == sorted(row["id"] for row in landed)
    assert sorted(ours["silver.events"]["id"]) == sorted(row["id"] for row in kept)
    assert dict(ours["gold.kinds"].select("kind", "n").rows()) == Counter(r["kind"] for r in kept)


def assert_clean_after_vacuum(project: SmallProject) -> None:
    """Files that no version of a table names go with a vacuum, and nothing else does."""
    before = content(project)
    for table in project.lake.tables():
        delta = DeltaTable(table.path)
        delta.vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
        folder = Path(table.path)
        named = {folder / path for path in delta.file_uris()}
        there = set(folder.rglob("*.parquet"))
        state = {path for path in there if "_shoal" in path.parts}
        assert there - state == named
        kept = {path.parent for path in state}
        assert len(kept) <= 2, f"state of commits that are past stays: {kept}"
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
    for batch in range(1, 6):
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

"""Several runs at once on one lake: each ends well or stops with a clear message, and rows are right.

The first test leaves the lake's lock to its work. The others take it away, as a file system that
does not share locks between machines would, so that only Delta's own transactions stand between
two writers.
"""

import re
import subprocess
import sys

import pyarrow as pa
from warm import Run

from projects import SmallProject
from shoal.lake import Lake, Progress

TABLES = """
import os, time

@F.udf("bigint")
def slowly(x):
    time.sleep({pause})
    return x

@dp.table(name="bronze.events")
def bronze():
    rows = spark.readStream.schema("id BIGINT, kind STRING").json("landing")
    return rows.withColumn("id", slowly("id"))

@dp.table(name="silver.events", partition_cols=["kind"])
@shoal.expect_or_drop("even", "id % 10 <> 0")
def silver():
    return spark.readStream.table("bronze.events")

@dp.materialized_view(name="gold.kinds")
def gold():
    rows = spark.read.table("silver.events").groupBy("kind")
    return rows.agg(F.count("*").alias("n"), F.sum("id").alias("total"))
"""
ROWS = 60


def make(folder, pause: float = 0.0) -> SmallProject:
    project = SmallProject(folder)
    project.python(TABLES.format(pause=pause))
    return project


def land(project: SmallProject, batch: int) -> None:
    ids = range(batch * ROWS, (batch + 1) * ROWS)
    project.land(f"{batch:03}.json", [{"id": i, "kind": "abc"[i % 3]} for i in ids])


def assert_right(project: SmallProject, batches: int) -> None:
    """Every row is there once, computed here without Shoal."""
    ids = range(batches * ROWS)
    kept = [i for i in ids if i % 10]
    assert project.rows("bronze.events", "id") == sorted(ids, key=repr)
    assert project.rows("silver.events", "id") == sorted(kept, key=repr)
    kinds = {kind: [i for i in kept if "abc"[i % 3] == kind] for kind in "abc"}
    wanted = [(kind, len(found), sum(found)) for kind, found in kinds.items()]
    assert project.rows("gold.kinds", "kind", "n", "total") == wanted


def explained(run: Run) -> str:
    """How a run ended; one that did not refresh everything must say why."""
    code, told = run.wait(), run.told()
    assert "Traceback" not in told, told
    if code == 0:
        return "done"
    if code == 75 and "Another run" in told:
        assert re.search(r"Another run \(process (\d+|unknown)\) is writing to", told), told
        assert "Wait until it ends, then run again; nothing was changed." in told
        return "waits"
    assert code == 75, told
    assert re.search(r"Another writer (changed|already committed)", told), told
    assert "Run again: nothing of this attempt was kept." in told
    return "lost"


def test_of_runs_at_once_some_end_well_and_the_others_say_why_not(tmp_path, warm) -> None:
    project = make(tmp_path / "p")
    for batch in range(3):
        land(project, batch)
        ends = [explained(run) for run in [warm.start(project.root) for _ in range(3)]]
        assert set(ends) <= {"done", "waits"}
        assert "done" in ends
        assert_right(project, batch + 1)


def test_without_a_lock_a_row_is_still_committed_once(tmp_path, warm) -> None:
    """Two runs in the same rows: Delta's transactions let one of them through."""
    project = make(tmp_path / "p", pause=0.005)
    lock = project.storage / ".shoal.lock"
    ends = []
    for batch in range(3):
        land(project, batch)
        first = warm.start(project.root)
        while not _locked_by(lock, first.pid):
            assert first.code is None
        lock.unlink()
        ends += [explained(warm.start(project.root)), explained(first)]
    assert set(ends) <= {"done", "lost"}
    warm.start(project.root).ok()
    assert_right(project, 3)
    versions = project.versions()
    warm.start(project.root).ok()
    assert project.versions() == versions


def _locked_by(lock, pid: int) -> bool:
    return lock.exists() and lock.read_text() == str(pid)


# Commits COUNT files' names, each with the progress that goes with it; tells each that was taken.
WRITER = """
import sys, pyarrow as pa
from dataclasses import replace
from shoal.errors import Conflict
from shoal.lake import Lake

table = Lake(sys.argv[1]).table("a.b")
for turn in range(int(sys.argv[3])):
    before = table.progress("f")
    mine = f"/in/{sys.argv[2]}-{turn}"
    after = replace(before, number=before.number + 1, files={**before.files, mine: [1, 1]})
    try:
        table.commit([], pa.schema([("id", pa.int64())]), progress=[(before, after)])
    except Conflict:
        continue
    print(mine, flush=True)
"""


def test_a_writer_that_loses_the_race_leaves_the_winners_progress_alone(tmp_path) -> None:
    """Each has written its document before the commit decides between them."""
    table = Lake(tmp_path).table("a.b")
    first = Progress(flow="f", number=0, files={"/in/first": [1, 1]})
    table.commit([], pa.schema([("id", pa.int64())]), progress=[(Progress(flow="f"), first)])
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, name, "40"], stdout=subprocess.PIPE, text=True)
        for name in ("x", "y", "z")
    ]
    taken = {line for writer in writers for line in writer.communicate()[0].split()}
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert 20 < len(taken) < 120, "some commits met another"
    assert set(table.progress("f").files) == {"/in/first", *taken}

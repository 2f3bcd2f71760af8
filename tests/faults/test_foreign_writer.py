"""Others write to the same tables while Shoal runs: plain deltalake, and a Spark Connect engine.

Whatever they append to a source is taken once; what they append to a target stays there once.
"""

import json
import subprocess
import sys

import pyarrow as pa
from deltalake import write_deltalake

from projects import SmallProject

TABLES = """
@dp.table(name="silver.events")
@shoal.expect_or_drop("even", "id % 10 <> 0")
def silver():
    return spark.readStream.table("raw.events")

dp.create_streaming_table("silver.both")

@dp.append_flow(target="silver.both", name="first")
def first():
    return spark.readStream.table("raw.events")

@dp.append_flow(target="silver.both", name="second")
def second():
    return spark.readStream.schema("id BIGINT, kind STRING").json("landing")

@dp.materialized_view(name="gold.kinds")
def gold():
    rows = spark.read.table("silver.events").groupBy("kind")
    return rows.agg(F.count("*").alias("n"), F.sum("id").alias("total"))
"""
# Appends COUNT times ROWS rows, ids from FIRST on, as fast as it can; tells each commit.
WRITER = """
import sys, pyarrow as pa
from deltalake import write_deltalake
path, first, count, rows = sys.argv[1], *map(int, sys.argv[2:])
for start in range(first, first + count * rows, rows):
    ids = range(start, start + rows)
    write_deltalake(path, pa.table({"id": ids, "kind": ["abc"[i % 3] for i in ids]}), mode="append")
    print(start, flush=True)
"""


def rows(ids) -> pa.Table:
    ids = list(ids)
    return pa.table({"id": pa.array(ids, pa.int64()), "kind": ["abc"[i % 3] for i in ids]})


def make(folder) -> SmallProject:
    project = SmallProject(folder)
    project.python(TABLES)
    project.land("a.json", [])
    write_deltalake(project.lake.table("raw.events").path, rows(range(10)))
    return project


def writer(table, first: int, count: int, size: int) -> subprocess.Popen[str]:
    numbers = map(str, (first, count, size))
    command = [sys.executable, "-c", WRITER, table.path, *numbers]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline(), "the writer made its first commit"
    return process


def assert_right(project: SmallProject, ids, foreign=()) -> None:
    kept = [i for i in ids if i % 10]
    assert sorted(project.rows("silver.events", "id")) == sorted([*kept, *foreign])
    kinds = {kind: [i for i in (*kept, *foreign) if "abc"[i % 3] == kind] for kind in "abc"}
    wanted = [(kind, len(found), sum(found)) for kind, found in kinds.items()]
    assert project.rows("gold.kinds", "kind", "n", "total") == wanted


def test_appends_to_a_source_during_runs_are_taken_once(tmp_path, warm) -> None:
    project = make(tmp_path / "p")
    source = project.lake.table("raw.events")
    process = writer(source, 10, 100, 10)
    runs = 0
    while process.poll() is None:
        warm.start(project.root).ok()
        runs += 1
        seen = project.lake.table("silver.events").progress("silver.events").versions["raw.events"]
        whole = [i for i in source.scan(seen[1]).collect()["id"] if i % 10]
        assert sorted(project.rows("silver.events", "id")) == sorted(whole), "the pinned version"
    process.communicate()
    assert runs > 1
    warm.start(project.root).ok()
    assert_right(project, range(1010))
    assert sorted(project.rows("silver.both", "id")) == list(range(1010))


def test_appends_to_a_target_during_runs_stay_and_do_not_disturb_it(tmp_path, warm) -> None:
    """Delta lets appends pass each other; the view over the target sees all of them."""
    project = make(tmp_path / "p")
    warm.start(project.root).ok()
    target, source = project.lake.table("silver.events"), project.lake.table("raw.events")
    process = writer(target, 1_000_001, 180, 1)
    ids, turn = list(range(10)), 0
    while process.poll() is None:
        turn += 1
        new = range(turn * 100, turn * 100 + 10)
        write_deltalake(source.path, rows(new), mode="append")
        ids += new
        warm.start(project.root).ok()
    process.communicate()
    assert turn > 1
    warm.start(project.root).ok()
    assert_right(project, ids, foreign=range(1_000_001, 1_000_181))


def test_a_spark_engine_appends_between_and_during_runs(tmp_path, warm, engine) -> None:
    project = make(tmp_path / "p")
    source = project.lake.table("raw.events")
    for turn in range(4):
        run = warm.start(project.root)
        first = 10 + turn * 20
        frame = engine.spark.createDataFrame([(i, "abc"[i % 3]) for i in range(first, first + 20)],
                                             "id BIGINT, kind STRING")  # fmt: skip
        frame.write.format("delta").mode("append").save(source.path)
        run.ok()
    warm.start(project.root).ok()
    assert_right(project, range(90))


def test_compaction_and_deletes_by_others_are_no_new_rows(tmp_path, warm) -> None:
    """OPTIMIZE moves rows to other files and changes none; a delete is refused, by name."""
    from deltalake import DeltaTable

    project = make(tmp_path / "p")
    source = project.lake.table("raw.events")
    for first in range(10, 60, 10):
        write_deltalake(source.path, rows(range(first, first + 10)), mode="append")
        warm.start(project.root).ok()
    DeltaTable(source.path).optimize.compact()
    DeltaTable(project.lake.table("silver.events").path).optimize.compact()
    write_deltalake(source.path, rows(range(60, 70)), mode="append")
    warm.start(project.root).ok()
    assert_right(project, range(70))
    DeltaTable(source.path).delete("id = 3")
    before = project.versions()
    run = warm.start(project.root)
    assert run.wait() == 1
    told = " ".join(run.told().split())
    assert "shoal run --full-refresh silver.events" in told
    assert project.versions()["silver.events"] == before["silver.events"]
    warm.start(project.root, "--full-refresh", "silver.events,silver.both").ok()
    assert_right(project, [i for i in range(70) if i != 3])


def test_files_that_arrive_during_a_run_wait_for_the_next(tmp_path, warm) -> None:
    """A writer that renames its files into the landing folder, as writers should."""
    project = make(tmp_path / "p")
    warm.start(project.root).ok()
    total = 0
    for _ in range(4):
        run = warm.start(project.root)
        for _ in range(20):
            text = json.dumps({"id": 100 + total, "kind": "a"}) + "\n"
            draft = project.root / "draft"
            draft.write_text(text)
            draft.rename(project.root / f"landing/{total:04}.json")
            total += 1
        run.ok()
    warm.start(project.root).ok()
    found = sorted(project.rows("silver.both", "id"))
    assert found == [*range(10), *range(100, 100 + total)]

"""The disk is full, may not be written, or holds a damaged file: whole versions, and a clear word.

The full disk is a small real file system (tmpfs) where the tests may mount one; elsewhere a limit on
the size of files stands in for it.
"""

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from left import litter
from warm import Run

from projects import SmallProject, settle

TABLES = """
@dp.table(name="bronze.events")
def bronze():
    return spark.readStream.schema("id BIGINT, noise STRING").parquet("landing/events")

@dp.table(name="silver.events")
@shoal.expect_or_drop("even", "id % 10 <> 0")
def silver():
    return spark.readStream.table("bronze.events").withColumn("more", F.sha2("noise", 256))

@dp.materialized_view(name="gold.total")
def gold():
    return spark.read.table("silver.events").agg(F.count("*").alias("n"), F.sum("id").alias("sum"))

@dp.table(name="bronze.other")
def other():
    return spark.readStream.schema("id BIGINT").json("landing/other")
"""
ROWS = 2_000


def make(folder: Path) -> SmallProject:
    project = SmallProject(folder)
    project.python(TABLES)
    project.land("other/a.json", [{"id": i} for i in range(5)])
    return project


def land(project: SmallProject, batch: int) -> Path:
    """A file of rows that no compression makes much smaller."""
    noise = np.random.default_rng(batch).bytes(ROWS * 16).hex()
    frame = pl.DataFrame(
        {
            "id": range(batch * ROWS, (batch + 1) * ROWS),
            "noise": [noise[i * 32 : i * 32 + 32] for i in range(ROWS)],
        }
    )
    path = project.root / f"landing/events/{batch:03}.parquet"
    path.parent.mkdir(exist_ok=True)
    frame.write_parquet(path)
    settle(path)
    return path


def assert_right(project: SmallProject, batches: int, others: int = 5) -> None:
    ids = range(batches * ROWS)
    kept = [i for i in ids if i % 10]
    assert sorted(project.rows("bronze.events", "id")) == list(ids)
    assert sorted(project.rows("silver.events", "id")) == kept
    assert project.rows("gold.total", "n", "sum") == [(len(kept), sum(kept))]
    assert project.rows("bronze.other", "id") == list(range(others))


def assert_whole(project: SmallProject, batches: int) -> None:
    """Each table holds all rows of some batch or none of them."""
    for name, share in (("bronze.events", 10), ("silver.events", 9)):
        if name in project.versions():
            rows = len(project.rows(name, "id"))
            assert rows in [batch * ROWS * share // 10 for batch in range(batches + 1)]


def failure(run: Run, *words: str) -> None:
    """What a run told that must have failed, without the spaces of its layout."""
    code, told = run.wait(), "".join(run.told().split())
    assert code == 1, f"{code}\n{run.told()}"
    assert "Traceback" not in told, run.told()
    for word in words:
        assert "".join(word.split()) in told, run.told()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Takes the disk's room but for some bytes."""
    filler = disk / "filler"
    room = os.statvfs(disk)
    filler.write_bytes(b"\0" * max(0, room.f_bavail * room.f_frsize - left))
    return filler


def test_a_full_disk_leaves_whole_versions_and_the_next_run_is_right(
    tmp_path, warm, small_disk
) -> None:
    """With room for nothing, for some of the work, for the rows but not for the commit, and so on."""
    project = make(tmp_path / "p")
    project.move_lake(small_disk / "lake")
    land(project, 0)
    warm.start(project.root).ok()
    full = 0
    steps = (0, 8, 60, 128, 160, 200, 260, 400)
    for batch, kilobytes in enumerate(steps, start=1):
        land(project, batch)
        filler = fill(small_disk, kilobytes * 1024)
        run = warm.start(project.root)
        if run.wait():
            full += 1
            failure(run, "No space left on device", str(project.storage))
        filler.unlink()
        assert_whole(project, batch + 1)
        warm.start(project.root).ok()
        assert_right(project, batch + 1)
    assert full >= 4, "the disk was never full"
    assert litter(project.lake) == set()


def test_a_limit_on_file_sizes_is_told_as_one(tmp_path, warm) -> None:
    project = make(tmp_path / "p")
    land(project, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = (16_384, hard)
    run = warm.start(project.root, limit=limit)
    failure(run, "bronze/events could not be written: File too large", "ulimit -f")
    assert soft == resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    assert project.rows("bronze.other", "id") == list(range(5)), "other tables go on"
    warm.start(project.root).ok()
    assert_right(project, 1)
    assert litter(project.lake) == set()


def shut(folder: Path) -> Iterator[None]:
    """Nobody may write into a folder, not even root, until the test goes on."""
    if os.geteuid():
        mode = folder.stat().st_mode
        folder.chmod(0o555)
        yield
        folder.chmod(mode)
        return
    chattr = ["chattr", "-R", "+i", str(folder)]
    if subprocess.run(chattr, check=False, capture_output=True).returncode:
        pytest.skip("this file system has no immutable folders, and root may write everywhere")
    yield
    subprocess.run(["chattr", "-R", "-i", str(folder)], check=True)


closed = contextlib.contextmanager(shut)


def test_a_table_that_may_not_be_written_fails_alone(tmp_path, warm) -> None:
    project = make(tmp_path / "p")
    land(project, 0)
    warm.start(project.root).ok()
    before = project.versions()
    land(project, 1)
    silver = Path(project.lake.table("silver.events").path)
    with closed(silver):
        words = "'silver.events' was not refreshed", "Hint: Give this user the right to write there"
        failure(warm.start(project.root), f"{silver} could not be written", *words)
    assert project.versions()["silver.events"] == before["silver.events"]
    assert project.versions()["bronze.events"] == before["bronze.events"] + 1
    warm.start(project.root).ok()
    assert_right(project, 2)
    assert litter(project.lake) == set()


def test_a_log_that_may_not_be_written_commits_nothing(tmp_path, warm) -> None:
    """The rows are written already when the commit fails: they go again, and so does progress."""
    project = make(tmp_path / "p")
    land(project, 0)
    warm.start(project.root).ok()
    land(project, 1)
    bronze = Path(project.lake.table("bronze.events").path)
    with closed(bronze / "_delta_log"):
        failure(warm.start(project.root), f"{bronze} could not be written")
    assert litter(project.lake) == set()
    warm.start(project.root).ok()
    assert_right(project, 2)


def test_a_lake_on_a_file_system_without_writing_says_so(tmp_path, warm, small_disk) -> None:
    project = make(tmp_path / "p")
    project.move_lake(small_disk / "lake")
    land(project, 0)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    failure(warm.start(project.root), f"{project.storage}", "Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    warm.start(project.root).ok()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    failure(warm.start(project.root), f"{project.storage}", "Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert_right(project, 1)


@pytest.mark.parametrize("damage", ["cut", "noise", "hole"])
def test_a_damaged_source_file_fails_its_table_by_name(tmp_path, warm, damage) -> None:
    project = make(tmp_path / "p")
    land(project, 0)
    warm.start(project.root).ok()
    land(project, 1)
    bad = land(project, 2)
    whole = bad.read_bytes()
    third = len(whole) // 3
    bad.write_bytes(
        {
            "cut": whole[:third],
            "noise": np.random.default_rng(0).bytes(5_000),
            "hole": whole[:third] + whole[-third:],
        }[damage]
    )
    settle(bad)
    project.land("other/b.json", [{"id": 5}])
    failure(warm.start(project.root), f"{bad} is no whole Parquet file", "'bronze.events' was not")
    assert_whole(project, 1)
    assert project.rows("bronze.other", "id") == list(range(6)), "other tables go on"
    bad.write_bytes(whole)
    settle(bad)
    warm.start(project.root).ok()
    assert_right(project, 3, others=6)
    assert litter(project.lake) == set()


def test_an_empty_source_file_waits_and_is_named(tmp_path, warm) -> None:
    project = make(tmp_path / "p")
    land(project, 0)
    late = land(project, 1)
    whole = late.read_bytes()
    late.write_bytes(b"")
    run = warm.start(project.root)
    run.ok()
    assert f"{late}isempty" in "".join(run.told().split())
    assert_right(project, 1)
    late.write_bytes(whole)
    settle(late)
    warm.start(project.root).ok()
    assert_right(project, 2)


def test_a_damaged_file_of_a_table_fails_its_readers_by_name(tmp_path, warm) -> None:
    project = make(tmp_path / "p")
    land(project, 0)
    warm.start(project.root, "--select", "bronze.events").ok()
    (file,) = Path(project.lake.table("bronze.events").path).rglob("*.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    failure(warm.start(project.root), file.name)
    file.write_bytes(whole)
    warm.start(project.root).ok()
    assert_right(project, 1)

"""One contract over every store: a local folder, S3 (moto's server) and Azure (Azurite)."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import threading
import time

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcs import missing as no_gcs
from gcs import running_gcs
from shoal.errors import Conflict, TableError, Unavailable
from shoal.lake import Lake, Progress, check, clone, diff, optimize, restore, staged_files, vacuum
from shoal.lake import lock as locks
from shoal.store import (
    hand_on,
    open_file,
    open_store,
    parquet_footer,
    path_in,
    write_parquet,
)
from stores import missing, proxied, running_azure, running_s3


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with running_s3(tmp_path_factory.mktemp("s3")) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def gs(tmp_path_factory):
    pytest.importorskip("google.cloud.storage")
    if why := no_gcs():
        pytest.skip(why)
    with running_gcs(tmp_path_factory.mktemp("gs")) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def azure(tmp_path_factory):
    if why := missing():
        pytest.skip(why)
    with running_azure(tmp_path_factory.mktemp("azure")) as cloud:
        yield cloud


CLOUDS = ["s3", *(pytest.param(name, marks=pytest.mark.heavy) for name in ("azure", "gs"))]


@pytest.fixture(params=["local", *CLOUDS])
def root(request, tmp_path):
    """The root of a new lake."""
    if request.param == "local":
        yield str(tmp_path / "lake")
        return
    cloud = request.getfixturevalue(request.param)
    with cloud.set():
        yield f"{cloud.bucket()}/some/prefix"


@pytest.fixture(params=CLOUDS)
def cloud(request):
    found = request.getfixturevalue(request.param)
    with found.set():
        yield found


NAME = "a b/é=1%20/x,y.txt"


def test_files_are_written_found_and_removed(root) -> None:
    store = open_store(root)
    assert (store.files(), store.folders(), store.stat(NAME)) == ([], [], None)
    store.write(NAME, b"one")
    store.write("top.txt", b"two")
    store.write(NAME, b"three")  # over it
    assert store.read(NAME) == b"three"
    assert [(file.name, file.size) for file in store.files()] == [(NAME, 5), ("top.txt", 3)]
    assert store.files("a") == []  # a folder, not a beginning
    assert store.folders() == ["a b"]
    assert store.folders("a b") == ["é=1%20"]
    found = store.stat(NAME)
    assert found == store.files("a b")[0]
    assert store.name(store.path(NAME)) == NAME
    store.delete([NAME, "never/was"])
    assert [file.name for file in store.files()] == ["top.txt"]
    assert store.folders() == []


def test_what_is_not_there_says_so(root) -> None:
    store = open_store(root)
    for use in (lambda: store.read("no/file"), lambda: store.open("no/file")):
        with pytest.raises(FileNotFoundError, match="no/file"):
            use()
    with pytest.raises(FileNotFoundError):
        store.copy("no/file", store, "other")
    store.remove("no")
    store.check()


def test_a_name_is_created_once(root) -> None:
    store = open_store(root)
    store.create("flow/1.json", b"mine")
    with pytest.raises(FileExistsError):
        store.create("flow/1.json", b"yours")
    assert store.read("flow/1.json") == b"mine"


def test_of_many_creators_one_wins(root) -> None:
    won: list[int] = []
    gate = threading.Barrier(8)

    def race(number: int) -> None:
        store = open_store(root)
        gate.wait()
        with contextlib.suppress(FileExistsError):
            store.create("flow/1.json", str(number).encode())
            won.append(number)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert open_store(root).read("flow/1.json") == str(won[0]).encode()


def test_a_file_is_read_from_anywhere(root, tmp_path) -> None:
    data = bytes(range(256)) * 40_000
    source = tmp_path / "source"
    source.write_bytes(data)
    store = open_store(root)
    store.write("big", source)
    with store.open("big") as stream:
        assert stream.read(3) == data[:3]
        stream.seek(-5, io.SEEK_END)
        assert stream.read() == data[-5:]
        stream.seek(5_000_000)
        assert stream.read(100_000) == data[5_000_000:5_100_000]
        assert stream.tell() == 5_100_000
        stream.seek(0)
        assert stream.read() == data
    with open_file(path_in(root, "big"), len(data)) as stream:
        assert stream.read(10) == data[:10]


def test_files_are_copied_linked_and_moved(root) -> None:
    one, other = open_store(path_in(root, "one")), open_store(path_in(root, "other"))
    one.write("x/1", b"1")
    one.copy("x/1", other, "y/1")
    one.copy("x/1", other, "y/2", linked=True)
    other.move("y/1", "y/3")
    hand_on(other.path("y/3"), one, "back")
    assert [file.name for file in other.files()] == ["y/2"]
    assert (one.read("x/1"), one.read("back"), other.read("y/2")) == (b"1", b"1", b"1")
    other.remove("y")
    assert other.files() == []


def test_a_folder_of_many_files_is_listed_and_removed_whole(root) -> None:
    store = open_store(root)
    for number in range(30):
        store.write(f"many/{number % 3}/{number:03}", b"")
    assert len(store.files("many")) == 30
    assert store.folders("many") == ["0", "1", "2"]
    store.remove("many")
    assert store.files() == []


def test_parquet_is_written_and_its_footer_read(root) -> None:
    rows = pa.table({"x": range(1000)})
    path = path_in(root, "t", "rows.parquet")
    write_parquet(rows, path)
    assert parquet_footer(path).num_rows == 1000
    with open_file(path) as stream:
        assert pq.read_table(stream) == rows


# ---- a table of the lake, everywhere the same


ROWS = pa.table({"day": ["a", "é b", None], "n": [1, 2, 3]})


def stage(table, rows: pa.Table, by: str | None = None) -> list:
    """What an engine does: Parquet below a staging folder, which stays until it is committed."""
    with table.staging() as folder:
        if by is None:
            write_parquet(rows, path_in(folder, "rows.parquet"))
        else:
            for value in rows[by].unique().to_pylist():
                mask = rows[by].is_null() if value is None else pa.compute.equal(rows[by], value)
                name = f"{by}={'' if value is None else value}"
                part = rows.filter(mask).drop([by])
                write_parquet(part, path_in(folder, name, "rows.parquet"))
        files = staged_files(folder)
        yield files


def commit(table, rows: pa.Table, *, by: str | None = None, **more) -> int:
    for files in stage(table, rows, by):
        return table.commit(files, rows.schema, partition_by=[by] if by else (), **more)
    raise AssertionError


def test_a_table_is_written_and_read_by_all(root) -> None:
    from deltalake import QueryBuilder

    lake = Lake(root)
    table = lake.table("silver.days")
    assert not table.exists()
    assert commit(table, ROWS, by="day") == 0
    assert [found.name for found in lake.tables()] == ["silver.days"]
    assert lake.name(f"delta.`{table.path}`") == table.table_name
    want = [(None, 3), ("a", 1), ("é b", 2)]
    assert sorted(table.scan().collect().select("day", "n").rows(), key=repr) == sorted(
        want, key=repr
    )
    query = QueryBuilder().register("t", table._open()).execute("SELECT day, n FROM t")
    assert sorted(pa.table(query).to_pylist(), key=repr) == sorted(
        ({"day": day, "n": n} for day, n in want), key=repr
    )
    assert table.size()[0] == 3
    found = []
    for file in table.changes(after=-1, until=0).files:
        with open_file(file.path) as stream:
            found += pq.read_table(stream)["n"].to_pylist()
    assert sorted(found) == [1, 2, 3]
    assert check(table) == []


def test_a_table_is_maintained(root) -> None:
    import datetime as dt

    lake = Lake(root)
    table = lake.table("a.t")
    for number in range(4):
        before = table.progress("f é")
        files = {**before.files, f"{number}": [1, 1]}
        after = Progress(flow="f é", number=number, files=files)
        commit(table, pa.table({"n": [number]}), progress=[(before, after)])
    assert set(table.progress("f é").files) == {"0", "1", "2", "3"}
    assert diff(table, 1, 3).added == 2
    assert restore(table, 1, rewind=True).version == 4
    assert sorted(table.scan().collect()["n"]) == [0, 1]
    assert set(table.progress("f é").files) == {"0", "1"}
    made = optimize(table)
    assert (made.removed, made.added) == (2, 1)
    with lake.writing():
        copy = clone(table, lake.table("a.copy"))
    assert (copy.files, copy.copied) == (1, not table.local)
    table.store.write("part-0123456789abcdef/left.parquet", b"killed")
    with lake.writing():
        done = vacuum(table, dt.timedelta(0))
    assert done.leftovers >= 1
    assert done.files == 4
    assert sorted(table.scan().collect()["n"]) == [0, 1]
    assert sorted(lake.table("a.copy").scan().collect()["n"]) == [0, 1]
    assert check(table) == check(lake.table("a.copy")) == []
    with pytest.raises(TableError, match="vacuumed"):
        restore(table, 3)


def test_a_failed_attempt_leaves_nothing(root) -> None:
    table = Lake(root).table("a.t")
    with pytest.raises(ZeroDivisionError):
        for _ in stage(table, ROWS):
            1 / 0  # noqa: B018
    with pytest.raises(TableError, match="already there|is string|is large_string|int64"):
        commit(table, ROWS)
        commit(table, pa.table({"n": ["text"]}))
    names = [file.name for file in table.store.files()]
    assert len([name for name in names if name.endswith(".parquet")]) == 1


WRITER = """
import sys
import pyarrow as pa
from shoal.errors import Conflict
from shoal.lake import Lake, Progress, staged_files
from shoal.store import path_in, write_parquet

root, writer = sys.argv[1], sys.argv[2]
table = Lake(root).table("a.t")
for number in range(2):
    while True:
        before = table.progress(writer)
        try:
            with table.staging() as folder:
                rows = pa.table({"writer": [writer], "n": [number]})
                write_parquet(rows, path_in(folder, "rows.parquet"))
                files = {**before.files, str(number): [1, 1]}
                after = Progress(flow=writer, number=before.number + 1, files=files)
                table.commit(staged_files(folder), rows.schema, progress=[(before, after)])
        except Conflict:
            continue
        break
"""


def test_eight_writers_lose_nothing(root) -> None:
    """Processes of their own, each with its flow; every commit lands once."""
    commit(
        Lake(root).table("a.t"),
        pa.table({"writer": pa.array([], pa.string()), "n": pa.array([], pa.int64())}),
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, root, f"w{n}"], stderr=subprocess.PIPE)
        for n in range(8)
    ]
    for writer in writers:
        _, said = writer.communicate(timeout=200)
        assert writer.returncode == 0, said.decode()
    table = Lake(root).table("a.t")
    rows = table.scan().collect().select("writer", "n").rows()
    assert sorted(rows) == [(f"w{n}", k) for n in range(8) for k in range(2)]
    assert all(set(table.progress(f"w{n}").files) == {"0", "1"} for n in range(8))
    assert table.version() == 16
    assert check(table) == []


def test_one_writer_holds_a_lake(root) -> None:
    with Lake(root).writing():
        with pytest.raises(Conflict, match="Another run"):
            with Lake(root).writing():
                pass
    with Lake(root).writing():
        pass


def test_a_lease_of_a_dead_process_is_taken_over(cloud) -> None:
    import json
    import socket

    root = f"{cloud.bucket()}/lake"
    lake = Lake(root)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    note = {"process": dead.pid, "host": socket.gethostname(), "id": "x"}
    lake.store.write(".shoal.lock", json.dumps(note).encode())
    with lake.writing():
        pass
    assert lake.store.files() == []


def test_a_lease_ends_when_its_holder_is_silent(cloud, monkeypatch) -> None:
    import json

    root = f"{cloud.bucket()}/lake"
    note = json.dumps({"process": 1, "host": "elsewhere", "id": "x"}).encode()
    Lake(root).store.write(".shoal.lock", note)
    with pytest.raises(Conflict, match="process 1 on elsewhere") as error:
        with Lake(root).writing():
            pass
    assert "its lease ends in" in error.value.hint
    monkeypatch.setattr(locks, "_LEASE_SECONDS", 0.0)
    with Lake(root).writing():
        monkeypatch.undo()
        with pytest.raises(Conflict):
            with Lake(root).writing():
                pass


def test_a_lease_is_renewed(cloud, monkeypatch) -> None:
    lake = Lake(f"{cloud.bucket()}/lake")
    monkeypatch.setattr(locks, "_RENEW_SECONDS", 0.05)
    with lake.writing():
        tag = lake.store.read_tagged(".shoal.lock")[1]
        until = time.monotonic() + 30
        while lake.store.read_tagged(".shoal.lock")[1] == tag:
            assert time.monotonic() < until, "never renewed"
    assert lake.store.stat(".shoal.lock") is None


def test_throttled_requests_are_sent_again(cloud) -> None:
    """A store that answers 503 to every third request is slow, and nothing else."""
    url = f"{cloud.bucket()}/lake"
    with proxied(cloud) as (behind, proxy), behind.set():
        proxy.refuse(503, every=3)
        table = Lake(url).table("a.t")
        commit(table, ROWS)
        commit(table, ROWS)
        assert table.scan().select(pl.len()).collect().item() == 6
        assert proxy.seen()["refused"] > 5
        proxy.refuse(429, every=4)
        assert check(table) == []
    assert Lake(url).table("a.t").version() == 1


def test_a_commit_that_the_store_did_not_take_at_first_is_made_once(cloud) -> None:
    url = f"{cloud.bucket()}/lake"
    table = Lake(url).table("a.t")
    commit(table, ROWS)
    with proxied(cloud) as (behind, proxy), behind.set():
        proxy.refuse(500, kind="PUT", part="_delta_log", times=1)
        commit(Lake(url).table("a.t"), ROWS)
        assert proxy.seen()["refused"] == 1
    assert table.scan().select(pl.len()).collect().item() == 6


# ---- bad input


def test_a_bucket_that_does_not_exist(cloud) -> None:
    url = cloud.bucket().rsplit("/", 1)[0] + "/never-was"
    make = {
        "s3": "aws s3 mb s3://never-was",
        "azure": "az storage container create",
        "gs": "gcloud storage buckets create",
    }[cloud.kind]
    for use in (
        Lake(url).store.check,
        lambda: Lake(url).tables(),
        lambda: commit(Lake(url).table("a.t"), ROWS),
    ):
        with pytest.raises(TableError, match="There is no (bucket|container)") as error:
            use()
        assert make in error.value.hint


def test_wrong_and_expired_credentials(cloud, monkeypatch) -> None:
    url = f"{cloud.bucket()}/lake"
    with proxied(cloud) as (behind, proxy), behind.set():
        proxy.refuse(403)
        for use in (Lake(url).store.check, lambda: Lake(url).table("a.t").exists()):
            with pytest.raises(TableError, match="refused the credentials") as error:
                use()
            names = ("AWS_ACCESS_KEY_ID", "AZURE_STORAGE", "GOOGLE_APPLICATION_CREDENTIALS")
            assert any(name in error.value.hint for name in names)
            for secret in ("testtest", "Eby8vdM02xNO"):
                assert secret not in str(error.value)


def test_who_may_only_read_is_told_so_and_changes_nothing(cloud) -> None:
    url = f"{cloud.bucket()}/lake"
    commit(Lake(url).table("a.t"), ROWS)
    before = cloud.names(url)
    with proxied(cloud) as (behind, proxy), behind.set():
        proxy.refuse(403, kind="PUT")
        with pytest.raises(TableError, match="refused the credentials"):
            commit(Lake(url).table("a.t"), ROWS)
        proxy.refuse(0)
        assert Lake(url).table("a.t").scan().select(pl.len()).collect().item() == 3
    assert {name for name in cloud.names(url) if "_delta_log" in name} == {
        name for name in before if "_delta_log" in name
    }


def test_a_wrong_endpoint(cloud) -> None:
    url = f"{cloud.bucket()}/lake"
    with cloud.at("http://127.0.0.1:1").set():
        with pytest.raises(Unavailable, match="does not answer"):
            Lake(url).store.check()

"""Differences between versions: equal to those of Python's multisets."""

import datetime as dt
import math
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.errors import TableError
from shoal.lake import Table, TableName, diff
from shoal.lake import diff as diff_function

SCHEMA = pa.schema([("id", pa.int64()), ("x", pa.float64()), ("day", pa.string())])
NAN = float("nan")


def table_at(folder) -> Table:
    return Table(name=TableName(schema="a", table="t"), path=str(Path(folder) / "t"))


def write(table: Table, rows: list[tuple], mode: str = "append", partition: str | None = "day"):
    data = pa.Table.from_pylist(
        [dict(zip(SCHEMA.names, row, strict=True)) for row in rows], schema=SCHEMA
    )
    write_deltalake(table.path, data, mode=mode, partition_by=[partition] if partition else None)


def plain(row: tuple) -> tuple:
    return tuple("NaN" if isinstance(v, float) and math.isnan(v) else v for v in row)


def rows_of(table: Table, version: int) -> Counter:
    return Counter(plain(row) for row in table.scan(version).collect().rows())


ROW = st.tuples(
    st.none() | st.integers(0, 5),
    st.none() | st.sampled_from([0.5, 1.5, NAN]),
    st.none() | st.sampled_from(["mon", "t ü/e", "wed%20"]),
)
EDIT = st.one_of(
    st.tuples(st.just("append"), st.lists(ROW, min_size=1, max_size=6)),
    st.tuples(st.just("overwrite"), st.lists(ROW, max_size=6)),
    st.tuples(st.just("delete"), st.integers(0, 5)),
    st.tuples(st.just("update"), st.integers(0, 5)),
    st.tuples(st.just("compact"), st.none()),
)


def edit(table: Table, kind: str, value) -> None:
    delta = DeltaTable(table.path)
    if kind in ("append", "overwrite"):
        write(table, value, mode=kind)
    elif kind == "delete":
        delta.delete(f"id = {value}")
    elif kind == "update":
        delta.update(updates={"x": "x + 1"}, predicate=f"id = {value}")
    else:
        delta.optimize.compact()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(first=st.lists(ROW, min_size=1, max_size=8), edits=st.lists(EDIT, max_size=5))
def test_equals_the_difference_of_multisets(first, edits) -> None:
    folder = tempfile.mkdtemp()
    try:
        table = table_at(folder)
        write(table, first)
        for kind, value in edits:
            edit(table, kind, value)
        newest = table.version()
        for before, after in {(0, newest), (newest, 0), (max(newest - 1, 0), newest)}:
            old, new = rows_of(table, before), rows_of(table, after)
            found = diff(table, before, after, limit=1000)
            for kind, expected, count in (
                ("added", new - old, found.added),
                ("removed", old - new, found.removed),
            ):
                assert count == expected.total()
                sample = Counter()
                for change in found.sample:
                    if change.kind == kind:
                        sample[plain(tuple(change.row[name] for name in SCHEMA.names))] += (
                            change.times
                        )
                assert sample == expected
            assert (found.changed, found.columns, found.schema) == (0, {}, {})
    finally:
        shutil.rmtree(folder)


KEYED = st.dictionaries(
    st.integers(0, 8),
    st.tuples(st.none() | st.sampled_from([0.5, NAN]), st.none() | st.sampled_from(["a", "b"])),
    max_size=8,
)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(old=KEYED, new=KEYED)
def test_with_a_key_equals_the_difference_of_dictionaries(old, new) -> None:
    folder = tempfile.mkdtemp()
    try:
        table = table_at(folder)
        for rows in (old, new):
            write(table, [(key, *rest) for key, rest in rows.items()], mode="overwrite")
        found = diff(table, 0, 1, key=["id"], limit=1000)
        both = {k for k in old.keys() & new.keys() if plain(old[k]) != plain(new[k])}
        assert found.added == len(new.keys() - old.keys())
        assert found.removed == len(old.keys() - new.keys())
        assert found.changed == len(both)
        for change in found.sample:
            if change.kind == "changed":
                key = change.row["id"]
                expected = {
                    name: (a, b)
                    for name, a, b in zip(
                        ("x", "day"), plain(old[key]), plain(new[key]), strict=True
                    )
                    if a != b
                }
                assert {n: plain(v) for n, v in change.columns.items()} == expected
                both.remove(key)
        assert not both
    finally:
        shutil.rmtree(folder)


def test_reads_only_the_files_that_differ(tmp_path) -> None:
    table = table_at(tmp_path)
    for number in range(5):
        write(table, [(number, 1.0, "mon")], partition=None)
    found = diff(table, 3, 4)
    assert (found.files, found.added, found.removed) == (1, 1, 0)
    for file in Path(table.path).glob("*.parquet"):
        if file.name not in str(DeltaTable(table.path).file_uris()):
            file.unlink()
    assert diff(table, 4, 4).files == 0


def test_works_bucket_by_bucket(tmp_path, monkeypatch) -> None:
    import sys

    monkeypatch.setattr(sys.modules["shoal.lake.diff"], "_BUCKET", 7)
    table = table_at(tmp_path)
    write(table, [(n, 1.0, "mon") for n in range(50)])
    write(table, [(n, 1.0 + (n % 5 == 0), "mon") for n in range(2, 55)], mode="overwrite")
    found = diff_function(table, 0, 1, key=["id"])
    assert (found.added, found.removed, found.changed) == (5, 2, 9)
    assert found.columns == {"x": 9}
    assert len([change for change in found.sample if change.kind == "changed"]) == 9


def test_a_key_that_names_several_rows_is_refused_with_an_example(tmp_path) -> None:
    table = table_at(tmp_path)
    write(table, [(1, 1.0, "mon")])
    write(table, [(7, 1.0, "mon"), (7, 2.0, "mon")])
    with pytest.raises(TableError, match="several rows that differ have id = 7"):
        diff(table, 0, 1, key=["id"])
    with pytest.raises(TableError, match="no column 'idd'") as error:
        diff(table, 0, 1, key=["idd"])
    assert "'id'" in error.value.hint


def test_tells_columns_that_came_left_or_changed_type(tmp_path) -> None:
    table = table_at(tmp_path)
    write_deltalake(table.path, pl.DataFrame({"id": [1], "old": ["a"], "n": [1]}).to_arrow())
    write_deltalake(
        table.path,
        pl.DataFrame({"id": [1], "new": [dt.date(2026, 1, 1)], "n": [1.0]}).to_arrow(),
        mode="overwrite",
        schema_mode="overwrite",
    )
    found = diff(table, 0, 1, key=["id"])
    assert found.schema == {
        "old": ("String", None),
        "new": (None, "Date"),
        "n": ("Int64", "Float64"),
    }
    (change,) = found.sample
    assert change.columns == {"old": ("a", None), "new": (None, dt.date(2026, 1, 1))}


def test_a_version_that_was_vacuumed_is_named(tmp_path) -> None:
    table = table_at(tmp_path)
    write(table, [(1, 1.0, "mon")])
    write(table, [(2, 1.0, "mon")], mode="overwrite")
    DeltaTable(table.path).vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(TableError, match="1 files are gone") as error:
        diff(table, 0, 1)
    assert "shoal history" in error.value.hint


def test_nested_values_are_compared(tmp_path) -> None:
    table = table_at(tmp_path)
    for value in ([1, 2], [1, 3]):
        frame = pl.DataFrame({"id": [1, 2], "l": [value, [9]], "s": [{"a": value[1]}, {"a": 0}]})
        write_deltalake(table.path, frame.to_arrow(), mode="overwrite")
    found = diff(table, 0, 1, key=["id"])
    assert (found.changed, found.added, found.removed) == (1, 0, 0)
    assert found.columns == {"l": 1, "s": 1}

"""What the log says about staged files is true: counts and bounds hold every row."""

import datetime as dt
import json
import math
import os
import tempfile
import time
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.lake import Lake, delta_schema, staged_files

KINDS = {
    "i": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "small": (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "f": (pa.float64(), st.floats()),
    "s": (pa.string(), st.text(st.characters(exclude_categories=["Cs"]), max_size=90)),
    "b": (pa.bool_(), st.booleans()),
    "d": (pa.date32(), st.dates(dt.date(1, 1, 1))),
    "t": (
        pa.timestamp("us", tz="UTC"),
        st.datetimes(dt.datetime(1700, 1, 1), timezones=st.just(dt.UTC)),
    ),
    "raw": (pa.binary(), st.binary(max_size=40)),
    "list": (pa.list_(pa.int64()), st.lists(st.integers(0, 9), max_size=3)),
}
ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, (_, values) in KINDS.items()}),
    max_size=12,
)
SCHEMA = pa.schema([(name, kind) for name, (kind, _) in KINDS.items()])


def read_bound(name: str, text: object) -> object:
    if name == "d":
        return dt.date.fromisoformat(text)
    return dt.datetime.fromisoformat(text) if name == "t" else text


def check(rows: list[dict], stats: dict) -> None:
    """Bounds may be missing or wide, never narrow; counts are exact."""
    assert stats["numRecords"] == len(rows)
    for name in stats["nullCount"]:
        assert stats["nullCount"][name] == sum(row[name] is None for row in rows)
    assert stats["minValues"].keys() == stats["maxValues"].keys()
    for name in stats["minValues"]:
        low = read_bound(name, stats["minValues"][name])
        high = read_bound(name, stats["maxValues"][name])
        values = [row[name] for row in rows if row[name] is not None]
        assert values
        assert all(low <= value <= high for value in values)
        assert not isinstance(low, float) or math.isfinite(low)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 5))
def test_statistics_are_true(rows, group) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        pq.write_table(table, Path(folder) / "a.parquet", row_group_size=group)
        (staged,) = staged_files(folder)
        stats = json.loads(staged.stats)
        check(rows, stats)
        assert staged.rows == len(rows)
        assert staged.count_present("s") == sum(row["s"] is not None for row in rows)
        assert staged.count_present("missing") == 0
        if rows:
            assert {"i", "s", "d", "t"} <= stats["nullCount"].keys()


@settings(max_examples=15, deadline=None)
@given(ROWS.filter(bool), ROWS)
def test_rows_found_by_filters_are_the_rows_there_are(first, second) -> None:
    """Readers skip files by the bounds: no filter may lose a row."""
    with tempfile.TemporaryDirectory() as folder:
        table = Lake(folder).table("a.b")
        for rows in (first, second):
            with table.staging() as staging:
                Path(staging).mkdir(parents=True)
                pq.write_table(
                    pa.Table.from_pylist(rows, schema=SCHEMA), Path(staging) / "a.parquet"
                )
                table.commit(staged_files(staging), SCHEMA)
        everything = [*first, *second]
        for name in ("i", "s", "d", "t", "small"):
            value = first[0][name]
            if value is None:
                continue
            expected = sum(row[name] == value for row in everything)
            found = pl.scan_delta(table.path).filter(pl.col(name) == value).collect()
            assert found.height == expected
            at_least = pl.scan_delta(table.path).filter(pl.col(name) >= value).collect()
            assert at_least.height == sum(
                row[name] is not None and row[name] >= value for row in everything
            )


def test_statistics_of_what_the_engine_writes(tmp_path, engine) -> None:
    rows = [
        (1, "ä" * 70, float("nan"), dt.datetime(2024, 1, 1, 0, 0, 0, 999_001), None),
        (2, "日本" * 20, float("inf"), dt.datetime(1969, 12, 31, 23, 59, 59, 999_999), None),
        (None, "", -0.0, None, None),
        (3, "𐍈" * 10, 1.5, dt.datetime(9999, 12, 31), None),
    ]
    frame = engine.spark.createDataFrame(
        rows, "i bigint, s string, f double, t timestamp, empty string"
    ).coalesce(1)
    frame.write.parquet(str(tmp_path / "out"))
    (staged,) = staged_files(tmp_path / "out")
    stats = json.loads(staged.stats)
    assert stats["numRecords"] == 4
    assert stats["nullCount"] == {"i": 1, "s": 0, "f": 0, "t": 1, "empty": 4}
    assert (stats["minValues"]["i"], stats["maxValues"]["i"]) == (1, 3)
    assert "f" not in stats["minValues"], "a NaN lies outside any bounds"
    assert stats["minValues"]["t"] == "1969-12-31T23:59:59.999Z"
    assert stats["maxValues"]["t"] == "9999-12-31T00:00:00.000Z"
    assert staged.count_present("empty") == 0


@pytest.fixture
def new_york(monkeypatch):
    monkeypatch.setitem(os.environ, "TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_bounds_of_local_timestamps_do_not_move_with_the_machine(tmp_path, new_york) -> None:
    noon = dt.datetime(2024, 7, 1, 12)
    rows = pa.table({"at": pa.array([noon], pa.timestamp("us"))})
    pq.write_table(rows, tmp_path / "a.parquet")
    (staged,) = staged_files(tmp_path)
    bound = json.loads(staged.stats)["minValues"]["at"]
    assert dt.datetime.fromisoformat(bound).replace(tzinfo=None) == noon
    zoned = pa.table({"at": pa.array([noon], pa.timestamp("us", tz="UTC"))})
    pq.write_table(zoned, tmp_path / "a.parquet")
    (staged,) = staged_files(tmp_path)
    assert json.loads(staged.stats)["minValues"]["at"] == "2024-07-01T12:00:00.000Z"


def test_partition_values_are_read_from_the_folders(tmp_path) -> None:
    for folder in ("a=1/b=x%2Fy", "a=__HIVE_DEFAULT_PARTITION__/b=x=y", "a=/b=two words"):
        (tmp_path / folder).mkdir(parents=True)
        pq.write_table(pa.table({"id": [1]}), tmp_path / folder / "f.parquet")
    staged = staged_files(tmp_path)
    assert sorted((str(s.partition["a"]), s.partition["b"]) for s in staged) == [
        ("1", "x/y"), ("None", "two words"), ("None", "x=y")
    ]  # fmt: skip
    assert all(Path(s.path).is_file() for s in staged)
    assert staged_files(tmp_path) == sorted(staged, key=lambda s: s.path), "a second look is equal"


def test_types_become_what_delta_holds() -> None:
    wide = pa.schema(
        [
            pa.field("t", pa.timestamp("ns", tz="Europe/Berlin"), nullable=False),
            pa.field("local", pa.timestamp("s")),
            pa.field("s", pa.large_string()),
            pa.field("view", pa.string_view()),
            pa.field("word", pa.dictionary(pa.int32(), pa.string())),
            pa.field("u", pa.uint32()),
            pa.field("none", pa.null()),
            pa.field("l", pa.large_list(pa.field("item", pa.large_string(), nullable=False))),
            pa.field("m", pa.map_(pa.large_string(), pa.uint8())),
            pa.field("st", pa.struct([pa.field("x", pa.uint16(), nullable=False)])),
        ]
    )
    us = pa.timestamp("us", tz="UTC")
    assert [field.type for field in delta_schema(wide)] == [
        us, pa.timestamp("us"), pa.string(), pa.string(), pa.string(), pa.int64(), pa.string(),
        pa.list_(pa.field("element", pa.string())), pa.map_(pa.string(), pa.int16()),
        pa.struct([("x", pa.int32())]),
    ]  # fmt: skip
    assert all(field.nullable for field in delta_schema(wide))
    assert delta_schema(delta_schema(wide)) == delta_schema(wide)

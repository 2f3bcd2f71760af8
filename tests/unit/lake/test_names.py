"""Table names become folders of the lake, and nothing else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ShoalError, TableError, TableNotFound
from shoal.lake import Lake, TableName


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("flights", "raw.flights"),
        ("silver.flights", "silver.flights"),
        ("Silver.FLIGHTS", "silver.flights"),
        ("`silver`.`flights`", "silver.flights"),
        ("silver.`flights`", "silver.flights"),
        ("`flights`", "raw.flights"),
        (" silver.flights ", "silver.flights"),
        ("spark_catalog.silver.flights", "silver.flights"),
        ("main.silver.flights", "silver.flights"),
        ("`main`.`silver`.`flights`", "silver.flights"),
        ("_hidden.2024-01", "_hidden.2024-01"),
        ("silver.größe_м", "silver.größe_м"),
        ("a$b.c-d", "a$b.c-d"),
    ],
)
def test_names_are_read_as_spark_reads_them(text, name) -> None:
    assert str(Lake("x", "RAW", catalog="main").name(text)) == name


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ".", "..", "../x", "a/b", "a.b/c", "/etc/passwd", "..\\x", "a\\b", "~", "~/x",
        "`../x`", "`a.b`", "`a/b`.c", "a.`..`", "a.b.c.d", "a b", "a;b", "a*", "a\x00b",
        "a..b", ".a", "a.", "a`b", "`a", "a.`b", "``", "`a``b`", "-a", "$a",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused(text) -> None:
    with pytest.raises(TableError, match="is not a table name"):
        Lake("x", catalog="a").name(text)


def test_another_catalog_is_named() -> None:
    with pytest.raises(TableError, match="catalog 'prod'; this project's catalog is 'main'"):
        Lake("x", catalog="main").name("prod.silver.flights")
    with pytest.raises(TableError, match="catalog 'main'; this project's catalog is 'spark_cat"):
        Lake("x").name("main.silver.flights")


@given(st.text(alphabet="ab._-/\\`~:% \n\x00é9$", max_size=12))
def test_no_name_leaves_the_lake(text) -> None:
    lake = Lake("/lake")
    try:
        table = lake.table(text)
    except ShoalError:
        return
    path = Path(table.path)
    assert path.resolve().parent.parent == Path("/lake").resolve()
    assert lake.name(str(table.table_name)) == table.table_name


def test_a_name_that_no_table_has_gives_the_nearest(lake) -> None:
    import pyarrow as pa

    lake.table("silver.flights").append(pa.table({"a": [1]}))
    with pytest.raises(TableNotFound, match="There is no table 'silver.flight'") as error:
        lake.existing("silver.flight")
    assert error.value.hint == "Did you mean 'silver.flights'?"
    assert lake.existing("SILVER.flights").version() == 0


def test_tables_are_listed_by_name_without_other_folders(lake) -> None:
    import pyarrow as pa

    assert lake.tables() == []
    for name in ("b.z", "a.y", "b.a"):
        lake.table(name).append(pa.table({"a": [1]}))
    (lake.root / "artifacts" / "x").mkdir(parents=True)
    (lake.root / "c" / "half" / "_delta_log").mkdir(parents=True)  # a crash before the first entry
    assert [table.name for table in lake.tables()] == ["a.y", "b.a", "b.z"]
    assert lake.tables()[0].table_name == TableName(schema="a", table="y")

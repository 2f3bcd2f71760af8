"""One contract, several engines: the same project gives the same tables on each of them.

The reference is embedded Sail; Apache Spark and a Sail cluster are held against it. Types, values,
nulls and moments must be equal, the order of rows need not be.
"""

import datetime as dt
import warnings

import pyarrow as pa
import pytest
from everykind import TABLES, content, land_more, make
from notyet import NOTIMPL, NOTYET
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import shoal
from fleets import CONTEXT, flights, trained_fleet
from projects import SmallProject
from shoal.lake import Lake
from shoal.models import collecting_models
from shoal.training import train

OTHERS = [pytest.param(name, marks=pytest.mark.heavy) for name in ("sail-cluster", "spark")]
ALL = ["embedded", *OTHERS]
pytestmark = [pytest.mark.timeout(900)]
over_all = pytest.mark.parametrize("any_engine", ALL, indirect=True, scope="session")
over_others = pytest.mark.parametrize("any_engine", OTHERS, indirect=True, scope="session")


def twice(folder, engine) -> SmallProject:
    """The project of every kind after a first run and one over more files."""
    project = make(folder / "p", engine)
    project.ok()
    land_more(project)
    project.ok()
    return project


@pytest.fixture(scope="session")
def reference(tmp_path_factory, engine) -> SmallProject:
    return twice(tmp_path_factory.mktemp("embedded"), engine)


@pytest.fixture(scope="session")
def other(tmp_path_factory, any_engine) -> SmallProject:
    return twice(tmp_path_factory.mktemp("other"), any_engine)


def told(project, name):
    """A table's content without the folder that the project lies in."""
    columns, rows = content(project.lake, name)
    return columns, [row.replace(str(project.root), "") for row in rows]


@over_others
@pytest.mark.parametrize("name", TABLES)
def test_the_same_tables(reference, other, name) -> None:
    assert told(other, name) == told(reference, name)


@over_others
def test_the_same_expectations_lineage_and_way_of_refreshing(reference, other) -> None:
    def counts(project):
        rows = project.lake.table("shoal.expectations").scan().collect()
        names = [c for c in rows.columns if c not in ("run_id", "at", "time", "version")]
        return sorted(map(repr, rows.select(names).rows()))

    def edges(project):
        rows = project.lake.table("shoal.lineage").scan().collect()
        rows = rows.drop("run_id", "at", "definition").rows()
        return sorted(repr(row).replace(str(project.root), "") for row in rows)

    def refreshes(project):
        logs = {name: project.lake.table(name).history(1)[0] for name in TABLES}
        return {name: log.get("shoal.refresh") for name, log in logs.items()}

    assert counts(other) == counts(reference)
    assert edges(other) == edges(reference)
    assert refreshes(other) == refreshes(reference)


@over_others
def test_nothing_new_changes_nothing(other) -> None:
    before = other.versions()
    other.ok()
    assert other.versions() == before


@over_others
def test_each_reads_what_the_other_wrote(reference, other, any_engine, engine) -> None:
    for name in TABLES:
        for spark, project in ((engine.spark, other), (any_engine.spark, reference)):
            table = project.lake.table(name)
            read = spark.read.format("delta").load(table.path).toArrow()
            rows = read.select([field.name for field in table.schema()])
            found = lake_rows(rows)
            assert found == content(project.lake, name)[1], (name, project.root)


def lake_rows(table: pa.Table) -> list[str]:
    import polars as pl

    return sorted(map(repr, pl.from_arrow(table).rows()))


@over_others
def test_one_engine_goes_on_where_another_stopped(tmp_path, reference, any_engine, engine) -> None:
    project = make(tmp_path / "p", engine)
    project.ok(select=["bronze.sales", "silver.sales", "bronze.changes", "silver.people2"])
    project.engine = any_engine
    land_more(project)
    project.ok(select=["bronze.sales", "silver.sales", "bronze.changes", "silver.people2"])
    for name in ("silver.sales", "silver.people2"):
        assert content(project.lake, name) == content(reference.lake, name)


# Models ------------------------------------------------------------------------------------------


def ridge():
    return make_pipeline(StandardScaler(), Ridge())


def trees():
    return HistGradientBoostingRegressor(max_iter=3)


def sales() -> pa.Table:
    days = [dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=7 * i) for i in range(40)]
    shops = ["a", "Ü", None, "few"]
    rows = [
        {
            "shop": shop,
            "line": i % 2,
            "t": t,
            "x": (i * 7 % 11) / 3,
            "y": i * (1 + shops.index(shop)),
        }
        for shop in shops
        for i, t in enumerate(days if shop != "few" else days[:3])
    ]
    schema = pa.schema(
        [("shop", pa.string()), ("line", pa.int32()), ("t", pa.timestamp("us", "UTC")),
         ("x", pa.float64()), ("y", pa.float64())]
    )  # fmt: skip
    return pa.Table.from_pylist(rows, schema)


@over_others
@pytest.mark.parametrize("function", [ridge, trees])
def test_members_of_a_fleet_are_the_same_bytes(tmp_path, any_engine, function) -> None:
    found = []
    for i, spark in enumerate((None, any_engine.spark)):
        lake = Lake(tmp_path / str(i))
        lake.table("gold.sales").append(sales())
        with collecting_models() as declared:
            shoal.model(
                table="gold.sales", target="y", by=["shop", "line"], time="t", features=["x"],
                name="m", metric="mae",
            )(function)  # fmt: skip
        train(declared[0], lake, spark=spark)
        members = lake.table("shoal.fleet_m").scan().sort("segment", "level").collect()
        names = [
            "segment",
            "status",
            "model_used",
            "rows_train",
            "rows_holdout",
            "rows_hash",
            "mae",
        ]
        found.append(members.select([*names, *(["state"] if function is ridge else [])]).rows())
    assert found[0] == found[1]
    assert len(found[0]) > 8


PREDICT = """
@dp.table(name="bronze.flights")
def flights():
    return spark.readStream.schema(
        "carrier string, dest string, distance bigint, hour bigint, dep_delay double, "
        "holiday boolean, arr_delay double, id bigint").json("landing")

@dp.table(name="gold.scored")
def scored():
    return shoal.predict("models:/delay@champion", spark.readStream.table("bronze.flights"))
"""


@over_others
def test_predictions_are_the_same(tmp_path, any_engine, engine) -> None:
    found = []
    for i, one in enumerate((engine, any_engine)):
        project = SmallProject(tmp_path / str(i), one)
        project.python(PREDICT)
        project.land("1.json", [r | {"id": n} for n, r in enumerate(flights(rows=30).to_pylist())])
        with project.open() as space:
            space.tracker.record(trained_fleet(tmp_path / f"fleet{i}"), CONTEXT)
        project.ok()
        found.append(content(project.lake, "gold.scored"))
    assert found[0] == found[1]
    assert len(found[0][1]) == 30


# Single statements -------------------------------------------------------------------------------


def describe_history(spark, folder):
    spark.range(3).write.format("delta").save(folder)
    return spark.sql(f"DESCRIBE HISTORY delta.`{folder}`").count() == 1


def having(spark, folder):
    spark.createDataFrame([(1, 2), (1, 3)], "k int, n int").createOrReplaceTempView("having_rows")
    return spark.sql(
        "SELECT k, sum(n) AS n FROM having_rows GROUP BY k HAVING sum(n) > 4"
    ).count() == 1  # fmt: skip


def interpolate(spark, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one partition, and of Arrow's own conversions
        import pyspark.pandas  # noqa: F401  (gives frames pandas_api)

        # Made by this very session: pandas-on-Spark's own functions take whichever came first.
        rows = spark.createDataFrame([(1.0,), (None,), (3.0,)], "x double").pandas_api()
        return rows["x"].interpolate().to_list() == [1.0, 2.0, 3.0]


def optimize(spark, folder):
    spark.range(3).write.format("delta").save(folder)
    spark.sql(f"OPTIMIZE delta.`{folder}`").collect()
    return True


def txn(spark, folder):
    for _ in range(2):
        rows = spark.range(3).write.format("delta").mode("append")
        rows.option("txnAppId", "a").option("txnVersion", "1").save(folder)
    return spark.read.format("delta").load(folder).count() == 3


def arrow_types(spark, folder):
    def wide(batches):
        for batch in batches:
            yield pa.RecordBatch.from_pydict({"x": batch.column("id")})

    return spark.range(3).mapInArrow(wide, "x INT").count() == 3


STATEMENTS = {
    "arrow types are cast": arrow_types,
    "describe history": describe_history,
    "having an aggregate of what an alias hides": having,
    "interpolate": interpolate,
    "optimize": optimize,
    "txn app id": txn,
}


@over_all
@pytest.mark.parametrize("what", STATEMENTS)
def test_statements(request, tmp_path, any_engine, what) -> None:
    name = request.node.callspec.params["any_engine"]
    reason = NOTYET[name].get(what) or NOTIMPL[name].get(what)
    if reason:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    assert STATEMENTS[what](any_engine.spark, str(tmp_path / "t"))


def test_the_lists_name_only_what_is_tested() -> None:
    for told in (NOTYET, NOTIMPL):
        assert {what for known in told.values() for what in known} <= set(STATEMENTS)

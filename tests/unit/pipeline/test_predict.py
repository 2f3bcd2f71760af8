"""``shoal.predict`` in flows: every row scored, once, by one version that stands in the row."""

import polars as pl
import pytest

import shoal
from fleets import CONTEXT, flights, trained_fleet
from shoal.errors import PipelineError

SOURCE = """
FLIGHTS = "carrier string, dest string, distance bigint, hour bigint, dep_delay double, holiday boolean, arr_delay double, id bigint"

@dp.table(name="bronze.flights")
def flights():
    return spark.readStream.schema(FLIGHTS).json("landing")

@dp.table(name="gold.scored")
def scored():
    return shoal.predict("models:/delay@champion", spark.readStream.table("bronze.flights"))

@dp.materialized_view(name="gold.bounds")
def bounds():
    rows = spark.read.table("bronze.flights")
    return shoal.predict("models:/delay@champion", rows, interval=True)

@dp.materialized_view(name="gold.late")
def late():
    scored = shoal.predict("delay", spark.read.table("bronze.flights").where("hour < 20"))
    return scored.select("id", "prediction", "model_version")
"""


@pytest.fixture
def scoring(project, tmp_path):
    project.python(SOURCE)
    register(project, tmp_path / "one", seed=0)
    return project


def register(project, folder, *, seed):
    with project.open() as space:
        return space.tracker.record(trained_fleet(folder, seed=seed), CONTEXT)


def land(project, name, first, count, **changes):
    rows = flights(rows=count, seed=first).to_pylist()
    rows = [row | {"id": first + i} | changes for i, row in enumerate(rows)]
    project.land(name, rows)
    return [row["id"] for row in rows]


def expected(project, ids, version):
    """What the fleet itself says to the stored rows, bit for bit (JSON may cost a digit)."""
    stored = project.lake.table("bronze.flights").scan().filter(pl.col("id").is_in(ids)).collect()
    with project.open() as space:
        told = space.tracker.fleet(f"delay/{version}").predict(stored.to_arrow(), explain=True)
    values = [told[name].to_pylist() for name in ("prediction", "model_used", "fallback")]
    found = zip(stored["id"], *values, [version] * len(stored), strict=True)
    return sorted(found, key=repr)


COLUMNS = ("id", "prediction", "model_used", "fallback", "model_version")


def test_intervals_stand_beside_the_predictions(scoring) -> None:
    land(scoring, "a.json", 0, 30)
    scoring.ok()
    found = scoring.lake.table("gold.bounds").scan().collect()
    with scoring.open() as space:
        told = space.tracker.fleet("delay/1").predict(found.to_arrow(), interval=True)
    for name in told.column_names:
        assert found[name].to_list() == told[name].to_pylist()


def test_new_rows_are_scored_once_and_a_promotion_says_why(scoring, tmp_path) -> None:
    first = land(scoring, "a.json", 0, 50)
    first += land(scoring, "b.json", 1000, 3, carrier="UA", dest="new")
    first += land(scoring, "c.json", 2000, 3, carrier=None, dest="MIA")
    scoring.ok()
    one = expected(scoring, first, 1)
    assert scoring.rows("gold.scored", *COLUMNS) == one
    assert any(row[1] is None for row in one)
    assert {row[2] for row in one} >= {'["UA"]', "[]"}
    kept = scoring.lake.table("gold.scored").scan().collect()
    assert set(kept.columns) > {"carrier", "distance", "model", *COLUMNS}
    assert set(kept["model"]) == {"delay"}
    assert set(scoring.rows("gold.late", "model_version")) == {1}
    assert {action for action, _ in scoring.plan().values()} == {"none"}

    register(scoring, tmp_path / "two", seed=7)
    action, reason = scoring.plan()["gold.late"]
    assert action == "full"
    assert reason == "its definition changed: it scores with models:/delay/2"
    second = land(scoring, "d.json", 3000, 20)
    report = scoring.ok()["gold.scored"]
    assert "only new rows follow the new definition; they are scored with models:/delay/2" in str(
        report.notes
    )
    both = sorted(one + expected(scoring, second, 2), key=repr)
    assert scoring.rows("gold.scored", *COLUMNS) == both
    stored = scoring.lake.table("bronze.flights").scan().filter(pl.col("hour") < 20).collect()
    late = [(row[0], row[1], 2) for row in expected(scoring, stored["id"].to_list(), 2)]
    assert scoring.rows("gold.late", "id", "prediction", "model_version") == sorted(late, key=repr)


def test_a_model_that_is_not_trained_yet_holds_up_its_tables_only(project, tmp_path) -> None:
    project.python(SOURCE)
    rows = land(project, "a.json", 0, 30)
    found = project.run()
    assert found["bronze.flights"].status == "refreshed"
    assert found["gold.scored"].status == "failed"
    assert "no version of models:/delay@champion to score with" in found["gold.scored"].error
    register(project, tmp_path / "one", seed=0)
    project.ok()
    assert project.rows("gold.scored", *COLUMNS) == expected(project, rows, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('.drop("hour")', "needs the column 'hour', which the DataFrame lacks"),
        ('.withColumn("fallback", F.lit(1))', "adds the column 'fallback'"),
    ],
)
def test_columns_that_do_not_fit_are_told_with_the_line(scoring, change, message) -> None:
    scoring.python(SOURCE.replace('spark.readStream.table("bronze.flights")',
                                  f'spark.readStream.table("bronze.flights"){change}'))  # fmt: skip
    with pytest.raises(PipelineError, match=rf"tables\.py:\d+: .*{message}"):
        scoring.plan()


def test_outside_of_a_project_it_says_what_to_do() -> None:
    with pytest.raises(PipelineError, match="works in the flows of a project"):
        shoal.predict("models:/delay@champion", None)

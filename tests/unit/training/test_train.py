import datetime as dt
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from shoal.errors import Conflict, ModelError, TableNotFound, TrainingError
from shoal.lake import Lake
from shoal.models import Fleet, ModelDeclaration, collecting_models, model
from shoal.training import train

ROUTES = [("UA", "IAH"), ("UA", "ORD"), ("AA", "MIA"), ("AA", None), ("B6", "BOS")]


def ridge(alpha: float = 1.0):
    return make_pipeline(StandardScaler(), Ridge(alpha=alpha))


def declare(function=ridge, **changes) -> ModelDeclaration:
    fields = {
        "table": "gold.flights",
        "target": "delay",
        "by": ["carrier", "dest"],
        "time": "day",
        "name": "delay",
    } | changes
    with collecting_models() as found:
        model(**fields)(function)
    return found[0]


def flights(rows: int = 100, seed: int = 0) -> pa.Table:
    """Shuffled rows of five routes, each with its own weights."""
    random = np.random.default_rng(seed)
    tables = []
    for i, (carrier, dest) in enumerate(ROUTES):
        x = random.normal(size=(rows, 2))
        days = [dt.date(2026, 1, 1) + dt.timedelta(days=d) for d in range(rows)]
        tables.append(
            pa.table(
                {
                    "carrier": [carrier] * rows,
                    "dest": pa.array([dest] * rows, pa.string()),
                    "day": days,
                    "x0": x[:, 0],
                    "x1": x[:, 1],
                    "busy": random.random(rows) < 0.5,
                    "note": ["text"] * rows,
                    "delay": (i + 1) * x[:, 0] - x[:, 1] + 0.1 * random.normal(size=rows),
                }
            )
        )
    whole = pa.concat_tables(tables)
    return whole.take(pa.array(random.permutation(whole.num_rows)))


def lake_with(folder, table: pa.Table) -> Lake:
    lake = Lake(folder / "lake")
    lake.table("gold.flights").append(table)
    return lake


def members(lake: Lake) -> dict[str, dict]:
    rows = lake.table("shoal.fleet_delay").scan().collect().to_dicts()
    return {row["segment"]: row for row in rows}


def change(table: pa.Table, where, column: str, value) -> pa.Table:
    frame = pl.from_arrow(table)
    changed = pl.when(where).then(value).otherwise(pl.col(column))
    return frame.with_columns(changed.alias(column)).to_arrow()


UA_IAH = (pl.col("carrier") == "UA") & (pl.col("dest") == "IAH")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    lake = lake_with(folder, flights())
    seen = []
    found = train(
        declare(), lake, workers=2, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (5, 5)
    return lake, found


def test_each_member_is_what_sklearn_fits_on_its_rows(trained) -> None:
    lake, found = trained
    fleet = Fleet.open(found.artifact)
    frame = lake.table("gold.flights").scan().collect().sort("day")
    for carrier, dest in ROUTES:
        here = pl.col("dest").eq_missing(pl.lit(dest)) & (pl.col("carrier") == carrier)
        rows = frame.filter(here)
        x = rows.select(pl.col("x0", "x1", "busy").cast(pl.Float64)).to_numpy(order="c")
        y = rows["delay"].to_numpy()
        expected = ridge().fit(x, y).predict(x)
        given = rows.select("carrier", "dest", "x0", "x1", "busy").to_arrow()
        # Batched members agree in eight digits and more; their last bits are their own.
        found_here = fleet.predict(given)["prediction"].to_numpy()
        np.testing.assert_allclose(found_here, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
        past = ridge().fit(x[:80], y[:80])
        row = members(lake)[f'["{carrier}",{"null" if dest is None else chr(34) + dest + chr(34)}]']
        assert row["mae"] == pytest.approx(np.abs(past.predict(x[80:]) - y[80:]).mean(), rel=1e-9)
        assert row["baseline_mae"] == pytest.approx(np.abs(y[:80].mean() - y[80:]).mean())
        assert (row["rows_train"], row["rows_holdout"], row["status"]) == (80, 20, "ok")


def test_what_training_hands_over(trained) -> None:
    lake, found = trained
    assert (found.fleet_version, found.members_version) == (1, 1)
    assert found.table_version == 0
    assert found.table_id == lake.table("gold.flights").id()
    assert found.metrics["segments_ok"] == 5
    assert found.metrics["rows_holdout"] == 100
    assert 0.9 < found.metrics["skill"] < 1
    assert found.failures == {}
    assert found.input_example.column_names == ["carrier", "dest", "x0", "x1", "busy"]
    assert Fleet.open(found.artifact).header.levels == (("carrier", "dest"), ("carrier",), ())
    stored = members(lake)
    assert stored["[]"]["level"] == 2
    assert stored['["AA",null]']["carrier"] == "AA"
    # The global model is fitted, for segments never seen, but is nobody's fallback here.
    unseen = found.input_example.slice(0, 1).set_column(0, "carrier", pa.array(["new"]))
    assert Fleet.open(found.artifact).predict(unseen, explain=True)["model_used"].to_pylist() == [
        "[]"
    ]


def test_training_again_gives_the_same_bits_and_the_next_version(trained) -> None:
    lake, found = trained
    again = train(declare(), lake, workers=1, version=0)
    assert again.fleet_version == found.fleet_version + 1
    assert again.members_version == found.members_version + 1
    states = [
        pa.ipc.open_file(str(each.artifact / "members.arrow")).read_all()["state"].to_pylist()
        for each in (found, again)
    ]
    assert states[0] == states[1]


def test_bad_segments_get_a_row_and_a_named_fallback(tmp_path) -> None:
    table = flights()
    few = (
        (pl.col("carrier") == "AA")
        & (pl.col("dest") == "MIA")
        & (pl.col("day") > dt.date(2026, 1, 9))
    )
    frame = pl.from_arrow(table).filter(few.fill_null(False).not_())
    frame = frame.with_columns(
        x0=pl.when(UA_IAH).then(float("nan")).otherwise("x0"),
        delay=pl.when(pl.col("carrier") == "B6").then(float("inf")).otherwise("delay"),
    )
    lake = lake_with(tmp_path, frame.to_arrow())
    found = train(declare(), lake, workers=2)
    rows = members(lake)
    assert rows['["UA","IAH"]']["status"] == "fallback"
    assert rows['["UA","IAH"]']["rows_dropped"] == 100
    assert rows['["UA","IAH"]']["reason"].endswith(
        "(100 rows with missing or infinite values were dropped)"
    )
    assert rows['["UA","IAH"]']["model_used"] == '["UA"]'
    assert rows['["AA","MIA"]']["reason"] == "7 training rows, fewer than min_rows = 30"
    assert rows['["AA","MIA"]']["model_used"] == '["AA"]'
    assert rows['["B6","BOS"]']["model_used"] == "[]"
    assert rows['["B6"]']["status"] == "fallback"
    assert rows['["UA","ORD"]']["status"] == "ok"
    assert found.metrics["segments_fallback"] == 3
    assert found.failures == {"fewer training rows than min_rows": 3}
    given = frame.filter(UA_IAH).with_columns(x0=1.0).to_arrow()
    explained = Fleet.open(found.artifact).predict(given, explain=True)
    assert set(explained["model_used"].to_pylist()) == {'["UA"]'}
    assert explained["fallback"].to_pylist() == [True] * 100


def picky():
    class Picky(Ridge):
        def fit(self, features, target):
            if target.mean() > 900:
                raise RuntimeError("too late")
            warnings.warn("slow going", stacklevel=1)
            return super().fit(features, target)

    return Picky()


class PickyRidge(Ridge):
    def fit(self, features, target):
        if 900 < target.mean() < 1100:
            raise RuntimeError("too late")
        warnings.warn("slow going", stacklevel=1)
        return super().fit(features, target)


def test_an_error_costs_its_segment_and_a_warning_is_kept(tmp_path) -> None:
    table = change(flights(), UA_IAH, "delay", pl.col("delay") + 1000)
    lake = lake_with(tmp_path, table)
    found = train(declare(PickyRidge), lake, workers=2)
    row = members(lake)['["UA","IAH"]']
    assert (row["status"], row["reason"]) == ("failed", "RuntimeError: too late")
    assert row["model_used"] == '["UA"]'
    assert members(lake)['["B6","BOS"]']["reason"] == "UserWarning: slow going"
    assert found.failures == {"RuntimeError: too late": 1}
    # A class of one's own: whoever opens the fleet says that its module is trusted.
    assert Fleet.open(found.artifact, modules=[__name__]).segments == 5
    with pytest.raises(ModelError, match="not allowed"):
        Fleet.open(found.artifact).predict(found.input_example)


def test_a_class_no_one_can_import_is_refused(tmp_path) -> None:
    with pytest.raises(TrainingError, match="no other process can import"):
        train(declare(picky), lake_with(tmp_path, flights()), workers=1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"table": "gold.fligths"}, TableNotFound, r"gold\.flights"),
        ({"target": "dely"}, TrainingError, "did you mean 'delay'"),
        ({"by": ["carier"]}, TrainingError, "did you mean 'carrier'"),
        ({"time": "days"}, TrainingError, "did you mean 'day'"),
        ({"features": ["x2"]}, TrainingError, "did you mean 'x"),
        ({"features": ["note"]}, TrainingError, "expected a numeric, boolean"),
        ({"target": "note"}, TrainingError, "is a regressor"),
        ({"by": ["x0"]}, TrainingError, "expected text"),
        ({"baseline": "seasonal_naive:lag"}, TrainingError, "is not a feature"),
        ({"metric": "accuracy"}, TrainingError, "measures classification"),
        ({"params": {"alpha": -1.0}}, TrainingError, "alpha"),
        ({"params": {"beta": 1}}, ModelError, "unexpected keyword"),
        ({"min_rows": 10_000}, TrainingError, r"no segment could be fitted: fewer training rows"),
    ],
)
def test_errors_come_before_anything_is_committed(trained, changes, error, message) -> None:
    lake, _ = trained
    before = lake.table("shoal.fleet_delay").version()
    with pytest.raises(error, match=message):
        train(declare(**changes), lake, workers=1)
    assert lake.table("shoal.fleet_delay").version() == before


@pytest.mark.parametrize(
    ("value", "message"),
    [(1.0, "1.0 in every row"), (None, "no value"), (float("nan"), "no value")],
)
def test_a_target_that_teaches_nothing(tmp_path, value, message) -> None:
    lake = lake_with(tmp_path, change(flights(), pl.lit(True), "delay", pl.lit(value, pl.Float64)))
    with pytest.raises(TrainingError, match=message):
        train(declare(), lake)


def test_an_empty_table_and_one_without_numbers(tmp_path) -> None:
    with pytest.raises(TrainingError, match="no value in any row"):
        train(declare(), lake_with(tmp_path / "a", flights().slice(0, 0)))
    lake = lake_with(tmp_path / "b", flights().select(["carrier", "dest", "day", "note", "delay"]))
    with pytest.raises(TrainingError, match="no numeric or boolean column"):
        train(declare(), lake)


def test_two_trainings_at_once_keep_their_artifacts_apart(tmp_path) -> None:
    lake = lake_with(tmp_path, flights())
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(train, declare(), lake, workers=1) for _ in range(2)]
    done = [r.result() for r in running if not isinstance(r.exception(), Conflict)]
    assert done
    assert len({each.fleet_version for each in done}) == len(done)
    for each in done:
        assert Fleet.open(each.artifact).header.fleet_version == each.fleet_version


def test_one_model_without_by(tmp_path) -> None:
    lake = lake_with(tmp_path, flights())
    found = train(declare(by=()), lake)
    fleet = Fleet.open(found.artifact)
    assert fleet.header.levels == ((),)
    assert members(lake)["[]"]["rows_train"] == 400
    assert fleet.predict(flights())["prediction"].null_count == 0


def test_without_time_the_holdout_is_a_seeded_share(tmp_path) -> None:
    lake = lake_with(tmp_path, flights())
    first = train(declare(time=None, seed=1), lake, workers=1)
    again = train(declare(time=None, seed=1), lake, workers=2)
    other = train(declare(time=None, seed=2), lake, workers=1)
    assert first.metrics["mae"] == again.metrics["mae"] != other.metrics["mae"]


def test_rows_of_one_moment_stay_together_and_holdout_can_be_off(tmp_path) -> None:
    table = flights()
    days = pa.array([d.replace(day=1 + d.day // 8) for d in table["day"].to_pylist()])
    lake = lake_with(tmp_path, table.set_column(2, "day", days))
    train(declare(), lake, workers=1)
    kept = members(lake)['["UA","IAH"]']
    frame = lake.table("gold.flights").scan().filter(UA_IAH).collect()["day"].sort()
    assert frame[kept["rows_train"] - 1] < frame[kept["rows_train"]]
    off = train(declare(holdout=0.0, name="off"), lake, workers=1)
    assert "mae" not in off.metrics
    assert off.metrics["rows_train"] == 500


def test_classification_with_text_labels(tmp_path) -> None:
    table = flights()
    late = pa.array(np.where(table["delay"].to_numpy() > 0, "late", "fine"))
    lake = lake_with(tmp_path, table.set_column(7, "delay", late))
    found = train(declare(LogisticRegression, metric="roc_auc"), lake, workers=2)
    fleet = Fleet.open(found.artifact)
    assert fleet.header.classes == ("fine", "late")
    assert set(fleet.predict(table)["prediction"].to_pylist()) == {"fine", "late"}
    assert found.metrics["roc_auc"] > 0.95
    assert found.metrics["baseline_roc_auc"] == 0.5


def test_a_segment_with_one_class_falls_back(tmp_path) -> None:
    table = flights()
    late = pl.when(UA_IAH).then(True).otherwise(pl.col("delay") > 0)
    lake = lake_with(tmp_path, pl.from_arrow(table).with_columns(delay=late).to_arrow())
    found = train(declare(LogisticRegression, metric="accuracy"), lake, workers=1)
    row = members(lake)['["UA","IAH"]']
    assert (row["status"], row["reason"]) == ("fallback", "the target is constant")
    assert row["model_used"] == '["UA"]'
    assert Fleet.open(found.artifact).header.classes == (False, True)


def boosted():
    return HistGradientBoostingRegressor(max_iter=3)


def test_nan_features_reach_estimators_that_take_them(tmp_path) -> None:
    some = UA_IAH & pl.col("busy")
    lake = lake_with(tmp_path, change(flights(), some, "x0", pl.lit(None, pl.Float64)))
    train(declare(boosted), lake, workers=2)
    row = members(lake)['["UA","IAH"]']
    assert (row["status"], row["rows_dropped"]) == ("ok", 0)


def by_name():
    return make_pipeline(make_column_transformer((MinMaxScaler(), ["x1", "x0"])), Ridge(alpha=1e-6))


def test_column_transformers_may_name_columns(tmp_path) -> None:
    lake = lake_with(tmp_path, flights())
    found = train(declare(by_name), lake, workers=1)
    assert found.metrics["skill"] > 0.9


def test_an_identifier_as_segment_warns(tmp_path) -> None:
    rows = 10_100
    table = pa.table({"id": np.arange(rows), "x": np.arange(rows) * 1.0, "y": np.arange(rows) % 7})
    lake = lake_with(tmp_path, table)
    declaration = declare(target="y", by=["id"], time=None)
    with pytest.warns(UserWarning, match="is that an identifier column"):
        found = train(declaration, lake, workers=2)
    assert found.metrics["segments_fallback"] == rows


def test_a_script_without_a_main_guard_can_train(tmp_path) -> None:
    lake_with(tmp_path, flights())
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import shoal.models, shoal.training
            from shoal.lake import Lake
            from sklearn.linear_model import Ridge

            with shoal.models.collecting_models() as found:
                @shoal.models.model(
                    table="gold.flights", target="delay", by=["carrier"], time="day"
                )
                def delay():
                    return Ridge()

            print(shoal.training.train(found[0], Lake({str(tmp_path / "lake")!r})).metrics)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert "'segments_ok': 3.0" in done.stdout, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("timed", [True, False])
def test_members_do_not_depend_on_the_order_of_rows(tmp_path, timed) -> None:
    rows = flights(60)
    # Two rows a day: no order in time tells them apart.
    days = pa.array([d // 2 for d in range(60)] * len(ROUTES), pa.int32()).cast(pa.date32())
    rows = rows.set_column(rows.schema.get_field_index("day"), "day", days)
    found = []
    for i, seed in enumerate((1, 2)):
        lake = Lake(tmp_path / str(i))
        order = np.random.default_rng(seed).permutation(rows.num_rows)
        lake.table("gold.flights").append(rows.take(pa.array(order)))
        declared = declare(time="day") if timed else declare(time=None, key=["day"])
        trained = train(declared, lake)
        members = lake.table(trained.members_table).scan().sort("segment").collect()
        found.append(members.select("segment", "state", "mae", "rows_hash").rows())
    assert found[0] == found[1]


def test_a_key_may_not_have_the_name_of_a_member_column(tmp_path) -> None:
    lake = Lake(tmp_path)
    lake.table("gold.flights").append(flights().rename_columns({"carrier": "State"}))
    with pytest.raises(TrainingError, match="'State' has the name") as raised:
        train(declare(by=["State"]), lake)
    assert 'withColumnRenamed("State"' in raised.value.hint

"""Rows as they come: gaps, odd keys, odd times, odd labels. Nothing stops a training."""

import datetime as dt
from decimal import Decimal

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from shoal.lake import Lake
from shoal.models import Fleet, ModelDeclaration, collecting_models, model
from shoal.training import retrain, train

NAN, INF = float("nan"), float("inf")
DAY = dt.datetime(2026, 3, 29, tzinfo=dt.UTC)


def declare(function=Ridge, **changes) -> ModelDeclaration:
    with collecting_models() as found:
        model(
            **{"table": "gold.t", "target": "y", "by": ["k"], "time": "t", "name": "m"} | changes
        )(function)
    return found[0]


def table(keys, rows: int = 40, kind: pa.DataType | None = None, **columns) -> pa.Table:
    """Some rows for each key; ``y`` is twice ``x`` plus the key's position."""
    random = np.random.default_rng(0)
    x = random.normal(size=len(keys) * rows)
    position = np.repeat(np.arange(len(keys)), rows)
    made = {
        "k": pa.array([keys[i] for i in position], kind),
        "t": np.tile(np.arange(rows), len(keys)),
        "x": x,
        "y": 2 * x + position,
    }
    return pa.table(made | columns)


def members(lake: Lake) -> dict[str, dict]:
    rows = lake.table("shoal.fleet_m").scan().collect().to_dicts()
    return {row["segment"]: row for row in rows}


def trained(folder, rows: pa.Table, declaration: ModelDeclaration | None = None):
    lake = Lake(folder / "lake")
    lake.table("gold.t").append(rows)
    made = train(declaration or declare(), lake, workers=1)
    return members(lake), Fleet.open(made.artifact), made, lake


def test_gaps_short_segments_and_constant_targets(tmp_path) -> None:
    frame = pl.from_arrow(table(["gaps", "constant", "fine", "void"]))
    k, t = pl.col("k"), pl.col("t")
    frame = frame.with_columns(
        x=pl.when((k == "gaps") & (t < 2)).then(NAN).when((k == "gaps") & (t == 2)).then(-INF)
        .when((k == "gaps") & (t == 3)).then(None).otherwise("x"),
        y=pl.when(k == "constant").then(7.0).when(k == "void").then(None)
        .when((k == "gaps") & (t == 4)).then(INF).otherwise("y"),
    )  # fmt: skip
    one = frame.filter(k == "fine").head(1).with_columns(k=pl.lit("one"))
    rows = pl.concat([frame, one]).sample(fraction=1.0, shuffle=True, seed=1).to_arrow()
    found, fleet, made, _ = trained(tmp_path, rows, declare(min_rows=20))
    gaps = found['["gaps"]']
    assert (gaps["status"], gaps["rows"], gaps["rows_dropped"]) == ("ok", 40, 5)
    assert gaps["rows_train"] + gaps["rows_holdout"] == 35
    assert found['["one"]']["reason"] == "1 training rows, fewer than min_rows = 20" or (
        found['["one"]']["rows_train"] == 0
    )
    assert found['["void"]']["reason"].endswith(
        "(40 rows with missing or infinite values were dropped)"
    )
    assert [found[f'["{n}"]']["uses"] for n in ("one", "void", "fine")] == [
        "global",
        "global",
        "own",
    ]
    assert made.failures == {"fewer training rows than min_rows": 2}
    given = pa.table({"k": ["constant", "one", "gaps"], "x": [3.0, 1.0, NAN]})
    predicted = fleet.predict(given)["prediction"].to_pylist()
    assert predicted[0] == pytest.approx(7.0)
    assert predicted[1] is not None
    assert predicted[2] is None


KEYS = {
    "unicode": (["ü", "u\u0308", "日本", "", " ", 'a"b', "a,b", "\u0000", "null", None], None),
    "integers": ([0, -1, 2**62, None], pa.int64()),
    "booleans": ([True, False, None], pa.bool_()),
    "dates": ([dt.date(1, 1, 1), dt.date(2026, 3, 29), None], pa.date32()),
    "timestamps": (
        [DAY, DAY.replace(microsecond=1), DAY.replace(hour=2), None],
        pa.timestamp("us", "UTC"),
    ),
    "decimals": ([Decimal("1.50"), Decimal("-0.01"), Decimal("100.00"), None], pa.decimal128(9, 2)),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_any_kind_find_their_member_again(tmp_path, kind) -> None:
    keys, arrow = KEYS[kind]
    rows = table(keys, kind=arrow or pa.string())
    found, fleet, made, lake = trained(
        tmp_path, rows.take(pa.array(np.random.default_rng(0).permutation(rows.num_rows)))
    )
    assert len(found) == len(keys) + 1
    assert made.metrics["segments_ok"] == len(keys)
    given = pa.table({"k": pa.array(keys, arrow or pa.string()), "x": [0.0] * len(keys)})
    explained = fleet.predict(given, explain=True)
    assert explained["fallback"].to_pylist() == [False] * len(keys)
    assert explained["model_used"].to_pylist() == explained["segment"].to_pylist()
    guess = explained["prediction"].to_numpy()
    assert np.abs(guess - np.arange(len(keys))).max() < 0.5
    lake.table("gold.t").append(rows.slice(0, 2))
    again = retrain(declare(), lake, since=made.members_version, workers=1)
    assert again is not None
    assert again.reason == f"1 of {len(keys)} segments fitted, {len(keys) - 1} carried over"


def test_unsorted_and_repeated_moments(tmp_path) -> None:
    rows = table(["a", "b"], rows=50)
    when = np.tile(np.repeat(np.arange(10), 5), 2)
    moments = pa.array([DAY + dt.timedelta(hours=int(h)) for h in when], pa.timestamp("us", "UTC"))
    rows = rows.set_column(1, "t", moments)
    order = pa.array(np.random.default_rng(0).permutation(rows.num_rows))
    found, _, made, lake = trained(tmp_path, rows.take(order), declare(holdout=0.3))
    # 15 of 50 rows are held out, and moments come five rows at a time: 35 is an edge.
    assert (found['["a"]']["rows_train"], found['["a"]']["rows_holdout"]) == (35, 15)
    again = train(declare(holdout=0.3), lake, workers=1)
    assert again.metrics["mae"] == made.metrics["mae"]
    # All rows of one moment: nothing can be held out.
    lake.table("gold.t").append(rows.set_column(1, "t", pa.repeat(moments[0], 100)), overwrite=True)
    flat = train(declare(min_rows=1, name="flat"), lake, workers=1)
    assert (flat.metrics["rows_train"], flat.metrics["rows_holdout"]) == (100, 0)
    assert flat.metrics["segments_ok"] == 2


@pytest.mark.parametrize("kind", [pa.float64(), pa.decimal128(9, 2), pa.date32(), pa.string()])
def test_times_of_any_kind_order_the_rows(tmp_path, kind) -> None:
    steps = [dt.date(2026, 1, 1) + dt.timedelta(days=i) for i in range(40)]
    texts = [str(step) for step in steps]
    values = {"date32[day]": steps, "string": texts}.get(str(kind), [Decimal(i) for i in range(40)])
    if pa.types.is_floating(kind):
        values = [float(v) for v in values]
    rows = table(["a"]).set_column(1, "t", pa.array(values, kind))
    rows = rows.take(pa.array(np.random.default_rng(1).permutation(40)))
    found, *_ = trained(tmp_path, rows)
    reference = table(["a"])
    past, late = reference.slice(0, 32), reference.slice(32)
    fitted = Ridge().fit(past.select(["x"]).to_pandas().to_numpy(), past["y"].to_numpy())
    error = np.abs(fitted.predict(late.select(["x"]).to_pandas().to_numpy()) - late["y"].to_numpy())
    assert found['["a"]']["mae"] == pytest.approx(error.mean())


def test_a_label_only_in_the_holdout(tmp_path) -> None:
    rows = table(["a", "b"], rows=60)
    labels = np.where(rows["x"].to_numpy() > 0, "up", "down").astype(object)
    labels[55:60] = "crash"  # the last days of a
    rows = rows.set_column(3, "y", pa.array(labels.tolist()))
    found, fleet, made, _ = trained(tmp_path, rows, declare(LogisticRegression, metric="log_loss"))
    assert fleet.header.classes == ("crash", "down", "up")
    assert found['["a"]']["status"] == "ok"
    assert found['["a"]']["log_loss"] > found['["b"]']["log_loss"]
    assert np.isfinite(made.metrics["log_loss"])
    given = rows.slice(55, 5)
    assert set(fleet.predict(given)["prediction"].to_pylist()) <= {"crash", "down", "up"}


def test_an_identifier_as_key_is_said_before_anything_is_fitted(tmp_path) -> None:
    rows = table(list(range(12_000)), rows=1)
    with pytest.warns(UserWarning, match=r"makes 12,000 segments of 12,000 rows") as said:
        _, _, made, _ = trained(tmp_path, rows, declare(min_rows=1, holdout=0.0))
    assert len(said) == 1
    assert made.metrics["segments"] == 12_000


def test_many_segments_too_small_to_fit_are_said_with_their_number(tmp_path) -> None:
    rows = table([key for key in range(11_000) for _ in range(2)], rows=1)
    with pytest.warns(UserWarning, match=r"11,000 of them have fewer than min_rows=3 rows"):
        trained(tmp_path, rows, declare(min_rows=3, holdout=0.0))

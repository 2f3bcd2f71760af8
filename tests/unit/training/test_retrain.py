"""Training again: what changed is fitted, and equals a training of everything."""

import datetime as dt
import functools
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shoal.errors import TrainingError
from shoal.lake import Lake, optimize
from shoal.models import Fleet, ModelDeclaration, TrainedFleet, collecting_models, model
from shoal.training import Nursery, new_nursery, retrain, train

SAME = ["segment", "status", "model_used", "uses", "template", "rows_hash", "rows", "rows_train"]
BITS = ["state", "mae", "rmse"]
ALPHA = 1.0


def ridge(alpha: float = 1.0):
    return make_pipeline(StandardScaler(), Ridge(alpha=alpha * ALPHA))


def declare(function=ridge, **changes) -> ModelDeclaration:
    fields = {
        "table": "gold.sales",
        "target": "y",
        "by": ["region", "store"],
        "time": "day",
        "name": "sales",
    }
    with collecting_models() as found:
        model(**(fields | changes))(function)
    return found[0]


def sales(stores, days: int = 60, start: int = 0, seed: int = 0) -> pa.Table:
    """Shuffled rows of some stores, two a day; regions of ten stores, the last is null."""
    random = np.random.default_rng([seed, start])
    store = np.repeat(np.array(stores), days)
    day = np.tile(np.arange(start, start + days), len(stores))
    x = random.normal(size=(len(store), 2))
    regions = [None if s // 10 == 9 else f"r{s // 10}" for s in store.tolist()]
    table = pa.table(
        {
            "region": pa.array(regions, pa.string()),
            "store": store,
            "day": pa.array([dt.date(2026, 1, 1) + dt.timedelta(days=int(d) // 2) for d in day]),
            "x0": x[:, 0],
            "x1": x[:, 1],
            "y": x[:, 0] * store - x[:, 1] + 0.1 * random.normal(size=len(store)),
        }
    )
    return table.take(pa.array(random.permutation(table.num_rows)))


STORES = [0, 1, 2, 3, 10, 11, 12, 13, 90, 91]


@functools.cache
def nursery() -> Nursery:
    return new_nursery()


@pytest.fixture(scope="module", autouse=True)
def _one_nursery():
    yield
    nursery().close()
    nursery.cache_clear()


def first_of(lake: Lake, declaration=None) -> TrainedFleet:
    return train(declaration or declare(), lake, workers=1, nursery=nursery())


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = Lake(tmp_path / "lake")
    lake.table("gold.sales").append(sales(STORES))
    return lake


def rows(lake: Lake, made: TrainedFleet) -> pl.DataFrame:
    found = lake.table(made.members_table).scan(made.members_version)
    return found.filter(pl.col("fleet_version") == made.fleet_version).collect().sort("segment")


def again(lake: Lake, before: TrainedFleet, declaration=None, **options) -> TrainedFleet:
    made = retrain(
        declaration or declare(),
        lake,
        since=before.members_version,
        workers=1,
        nursery=nursery(),
        **options,
    )
    assert made is not None
    return made


def fitted(lake: Lake, made: TrainedFleet) -> list[str]:
    here = rows(lake, made).filter(level=0)
    return here.filter(pl.col("origin_version") == made.fleet_version)["segment"].to_list()


def equals_a_full_training(lake: Lake, made: TrainedFleet, *, shuffled: bool = False) -> None:
    """Bit by bit; where rows of one moment changed places, but for rounding."""
    full = first_of(lake)
    ours, theirs = (rows(lake, m).filter(level=0) for m in (made, full))
    assert ours.select(SAME).equals(theirs.select(SAME))
    assert shuffled or ours.select(BITS).equals(theirs.select(BITS))
    for name in ("mae", "rmse", "r2", "baseline_mae"):
        assert ours[name].to_list() == pytest.approx(theirs[name].to_list(), rel=1e-9)
    names = ("mae", "rmse", "r2", "baseline_mae", "segments", "segments_ok", "rows", "rows_train")
    for name in names:
        assert made.metrics[name] == pytest.approx(full.metrics[name], rel=1e-9)


def test_nothing_changed_trains_nothing(lake) -> None:
    first = first_of(lake)
    assert retrain(declare(), lake, since=first.members_version) is None
    optimize(lake.existing("gold.sales"))
    lake.table("gold.sales").append(sales([1]).slice(0, 0))
    assert retrain(declare(), lake, since=first.members_version) is None
    assert lake.table("shoal.fleet_sales").version() == first.members_version


def test_only_segments_with_new_rows_are_fitted(lake) -> None:
    first = first_of(lake)
    lake.table("gold.sales").append(sales([1, 90, 55], start=60))
    made = again(lake, first)
    assert fitted(lake, made) == ['["r0","1"]', '["r5","55"]', '[null,"90"]']
    assert made.reason == "3 of 11 segments fitted, 8 carried over"
    assert (made.metrics["segments_fitted"], made.metrics["segments_carried"]) == (3, 8)
    kept = rows(lake, made).filter(segment='["r0","0"]').to_dicts()[0]
    assert (kept["origin_version"], kept["trained_on_version"], kept["table_version"]) == (1, 0, 1)
    equals_a_full_training(lake, made)
    given = pa.table({"region": ["r0"], "store": [0], "x0": [1.0], "x1": [1.0]})
    old, new = (
        Fleet.open(m.artifact).predict(given)["prediction"][0].as_py() for m in (first, made)
    )
    assert old == new


def test_rewritten_files_are_compared_by_their_rows(lake) -> None:
    table = lake.table("gold.sales")
    first = first_of(lake)
    frame = pl.from_arrow(sales(STORES))
    same = frame.sample(fraction=1.0, shuffle=True, seed=3)
    table.append(same.to_arrow(), overwrite=True)
    assert retrain(declare(), lake, since=first.members_version) is None
    other = pl.when((pl.col("store") == 2) & (pl.col("x0") > 2)).then(0.0).otherwise("y")
    gone = same.with_columns(y=other).filter(pl.col("store") != 13)
    table.append(gone.to_arrow(), overwrite=True)
    made = again(lake, first)
    assert fitted(lake, made) == ['["r0","2"]']
    assert made.reason == "1 of 9 segments fitted, 8 carried over, 1 gone"
    equals_a_full_training(lake, made, shuffled=True)
    # Carried on from a carried one: its members are current with the newest version.
    table.append(sales([91], start=60))
    third = again(lake, made)
    assert fitted(lake, third) == ['[null,"91"]']
    assert set(rows(lake, third)["origin_version"]) >= {1, made.fleet_version}
    equals_a_full_training(lake, third, shuffled=True)


def stronger(alpha: float = 1.0):
    return make_pipeline(StandardScaler(), Ridge(alpha=alpha * 2))


def test_another_definition_fits_everything(lake, monkeypatch) -> None:
    first = first_of(lake)
    for changed in (declare(params={"alpha": 2.0}), declare(stronger), declare(min_rows=3)):
        made = again(lake, first, changed)
        assert (made.reason, len(fitted(lake, made))) == ("all, the definition changed", 10)
    monkeypatch.setitem(globals(), "ALPHA", 3.0)
    assert again(lake, first).reason == "all, the definition changed"
    monkeypatch.undo()
    monkeypatch.setattr("sklearn.__version__", "1.9.99")
    with pytest.raises(TrainingError, match="cannot be fitted: the libraries changed"):
        retrain(declare(), lake, since=first.members_version, segments=["r0,1"])


def test_named_segments_alone(lake) -> None:
    first = first_of(lake)
    lake.table("gold.sales").append(sales([1, 2], start=60))
    made = again(lake, first, segments=["r0,1", '[null,"90"]'])
    assert fitted(lake, made) == ['["r0","1"]', '[null,"90"]']
    # The other changed segment is still behind, and the next training sees it.
    second = again(lake, made)
    assert fitted(lake, second) == ['["r0","2"]']
    equals_a_full_training(lake, second)
    with pytest.raises(TrainingError, match=r"no segment r0,7 [^\n]*\nHint: did you mean"):
        retrain(declare(), lake, since=first.members_version, segments=["r0,7"])


class Moody(Ridge):
    def fit(self, features, target):
        if Path(ANGRY).exists() and float(target.max()) > 100:
            raise RuntimeError("not today")
        return super().fit(features, target)


ANGRY = "angry"


def test_failed_members_are_tried_again_when_asked(lake, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(globals(), "ANGRY", str(tmp_path / "angry"))
    Path(ANGRY).touch()
    first = first_of(lake, declare(Moody))
    assert first.failures == {"RuntimeError: not today": 2}
    Path(ANGRY).unlink()
    assert retrain(declare(Moody), lake, since=first.members_version) is None
    made = again(lake, first, declare(Moody), failed=True)
    assert fitted(lake, made) == ['[null,"90"]', '[null,"91"]']
    assert made.metrics["segments_ok"] == 10
    assert retrain(declare(Moody), lake, since=made.members_version, failed=True) is None


def test_groups_follow_when_a_tenth_of_their_rows_was_fitted_since(lake) -> None:
    table = lake.table("gold.sales")
    table.append(sales([14, 4], days=10))  # too few rows: they use their groups
    made = first_of(lake)

    def origin() -> dict[str, int]:
        groups = rows(lake, made).filter(pl.col("level") > 0)
        return dict(groups.select("segment", "origin_version").iter_rows())

    assert origin() == {'["r0"]': 1, '["r1"]': 1, "[]": 1}
    table.append(sales([4], days=1, start=10))
    made = again(lake, made)
    assert origin() == {'["r0"]': 1, '["r1"]': 1, "[]": 1}
    table.append(sales([4], days=9, start=11))
    made = again(lake, made)
    assert origin() == {'["r0"]': 1, '["r1"]': 1, "[]": 1}
    table.append(sales([1], days=1, start=60))
    made = again(lake, made)
    assert origin() == {'["r0"]': 4, '["r1"]': 1, "[]": 4}


def test_a_new_class_fits_everything(lake) -> None:
    table = lake.table("gold.sales")
    label = pl.when(pl.col("y") > 0).then(pl.lit("up")).otherwise(pl.lit("down"))
    coded = pl.from_arrow(sales(STORES)).with_columns(y=label)
    table.append(coded.to_arrow(), overwrite=True)
    declared = declare(LogisticRegression, metric="accuracy")
    first = first_of(lake, declared)
    more = pl.from_arrow(sales([1], start=60)).with_columns(y=label)
    table.append(more.to_arrow())
    made = again(lake, first, declared)
    assert fitted(lake, made) == ['["r0","1"]']
    table.append(more.with_columns(y=pl.lit("flat")).to_arrow())
    made = again(lake, made, declared)
    assert made.reason == "all, a class is new"
    assert Fleet.open(made.artifact).header.classes == ("down", "flat", "up")


def test_one_model_without_by(lake) -> None:
    declared = declare(by=())
    first = first_of(lake, declared)
    assert retrain(declared, lake, since=first.members_version) is None
    lake.table("gold.sales").append(sales([1], start=60))
    made = again(lake, first, declared)
    assert (made.reason, made.metrics["rows"]) == ("its rows changed", 660)


def test_a_table_made_anew_and_a_lost_history(lake) -> None:
    first = first_of(lake)
    assert again(lake, first.__class__(**{**vars(first), "members_version": 7})).reason == (
        "all, the last training's members cannot be read"
    )
    for log in (Path(lake.table("gold.sales").path) / "_delta_log").iterdir():
        log.unlink()
    lake.table("gold.sales").append(sales([*STORES, 5]))
    made = again(lake, first)
    assert len(fitted(lake, made)) < 12
    equals_a_full_training(lake, made)

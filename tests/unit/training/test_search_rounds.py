"""Trials side by side: what is found depends on the trials of a round, and on nothing else."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hyperopt import hp
from sklearn.linear_model import Ridge

import shoal
from shoal.errors import ModelError
from shoal.lake import Lake
from shoal.models import collecting_models, model
from shoal.training import new_nursery
from shoal.training.search import search

SAME = ["number", "params", "value", "state", "rows", "point"]


class Broken(Exception):
    pass


def rows() -> pa.Table:
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 6))
    return pa.table({f"x{i}": x[:, i] for i in range(6)} | {"y": x[:, 0] + random.normal(size=200)})


def declare(space, parallel: int, trials: int = 8, **changes):
    with collecting_models() as found:
        model(
            table="gold.t", target="y", name="m", **changes,
            search=shoal.Search(space=space, trials=trials, parallel=parallel),
        )(lambda alpha: Ridge(alpha=alpha))  # fmt: skip
    return found[0]


SPACES = {
    "optuna": lambda trial: {"alpha": trial.suggest_float("alpha", 1e-3, 1e3, log=True)},
    "hyperopt": {"alpha": hp.loguniform("alpha", -7, 7)},
}


@pytest.fixture(scope="module")
def nursery():
    with new_nursery() as made:
        yield made


def lake_at(folder) -> Lake:
    lake = Lake(folder)
    lake.table("gold.t").append(rows())
    return lake


def trials(lake: Lake) -> pl.DataFrame:
    return lake.table("shoal.trials_m").scan().sort("number").select(SAME).collect()


@pytest.mark.parametrize("kind", SPACES)
def test_rounds_do_not_depend_on_processes_nor_on_a_break(
    kind, tmp_path, nursery, monkeypatch
) -> None:
    monkeypatch.setattr("shoal.training.search.trials._LOST", 0.0)
    declaration = declare(SPACES[kind], parallel=3)
    one, two = lake_at(tmp_path / "one"), lake_at(tmp_path / "two")
    alone = search(declaration, one, workers=1, nursery=nursery)
    assert alone.new == 8

    def break_off(done: int, total: int) -> None:
        if done >= 6:
            raise Broken

    with pytest.raises(Broken):
        search(declaration, two, workers=3, nursery=nursery, progress=break_off)
    kept = trials(two).height
    assert kept in (3, 6)  # whole rounds
    again = search(declaration, two, workers=3, nursery=nursery)
    assert again.new == 8 - kept
    assert again.params == alone.params
    assert trials(two).equals(trials(one))
    assert trials(one)["value"].is_not_null().all()


def test_points_of_a_round_differ_and_the_next_round_knows_them(tmp_path, nursery) -> None:
    lake = lake_at(tmp_path)
    search(declare(SPACES["optuna"], parallel=4), lake, workers=2, nursery=nursery)
    assert trials(lake)["point"].n_unique() == 8
    # In a finite space a point is measured once, however often it is chosen.
    small = declare({"alpha": [0.1, 10.0]}, parallel=4)
    found = search(small, lake, workers=2, nursery=nursery)
    last = lake.table("shoal.trials_m").scan().filter(study=found.study).collect()
    assert last.height == 8
    assert last.filter(pl.col("core_seconds") > 0).height == 2
    assert last.group_by("point").agg(pl.col("value").n_unique())["value"].to_list() == [1, 1]


def test_rounds_are_for_models_without_segments() -> None:
    with pytest.raises(ModelError, match="side by side"):
        declare(SPACES["optuna"], parallel=2, by=["x0"])
    with pytest.raises(ModelError, match="parallel is 0"):
        declare(SPACES["optuna"], parallel=0)

"""Trials of one model that are given up: by what its rounds say, and as a pruner decides."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hyperopt import hp
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, ThresholdPruner
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import shoal
from shoal.lake import Lake
from shoal.models import collecting_models, model
from shoal.training import new_nursery
from shoal.training.search import search

ROUNDS = 40


class Broken(Exception):
    pass


def rows(classes: bool) -> pa.Table:
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 4))
    y = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.2 * random.normal(size=400)
    target = np.where(y > 0, "high", "low") if classes else y
    return pa.table({f"x{i}": x[:, i] for i in range(4)} | {"y": target})


def estimator(kind: str, rate: float):
    if kind == "xgboost":
        from xgboost import XGBRegressor

        return make_pipeline(
            StandardScaler(), XGBRegressor(n_estimators=ROUNDS, learning_rate=rate)
        )
    if kind == "xgboost-classes":
        from xgboost import XGBClassifier

        return XGBClassifier(n_estimators=ROUNDS, learning_rate=rate)
    if kind == "lightgbm":
        from lightgbm import LGBMRegressor

        return LGBMRegressor(n_estimators=ROUNDS, learning_rate=rate, verbose=-1)
    if kind == "lightgbm-classes":
        from lightgbm import LGBMClassifier

        return make_pipeline(
            StandardScaler(), LGBMClassifier(n_estimators=ROUNDS, learning_rate=rate, verbose=-1)
        )
    if kind == "torch":
        import torch
        from skorch import NeuralNetRegressor

        net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        return NeuralNetRegressor(net, lr=rate, max_epochs=ROUNDS, train_split=None, verbose=0)
    import keras
    from keras.wrappers import SKLearnRegressor

    def build(X, y):
        _ = X, y
        net = keras.Sequential([keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])
        net.compile(optimizer=keras.optimizers.SGD(rate), loss="mse")
        return net

    return SKLearnRegressor(build, fit_kwargs={"epochs": ROUNDS})


KINDS = [
    "xgboost", "xgboost-classes", "lightgbm", "lightgbm-classes",
    pytest.param("torch", marks=pytest.mark.heavy), pytest.param("keras", marks=pytest.mark.heavy),
]  # fmt: skip


def declare(kind: str, *, pruner=None, trials: int = 12, parallel: int = 1, space=None):
    def suggest(trial):
        return {"rate": trial.suggest_float("rate", 1e-4, 0.5, log=True)}

    metric = "log_loss" if kind.endswith("classes") else "mae"
    with collecting_models() as found:
        model(
            table="gold.t", target="y", name="m", metric=metric,
            search=shoal.Search(
                space=space or suggest, trials=trials, parallel=parallel, pruner=pruner
            ),
        )(lambda rate: estimator(kind, rate))  # fmt: skip
    return found[0]


def lake_at(folder, kind: str) -> Lake:
    lake = Lake(folder)
    lake.table("gold.t").append(rows(kind.endswith("classes")))
    return lake


def trials(lake: Lake) -> pl.DataFrame:
    kept = ["number", "point", "state", "value", "steps"]
    return lake.table("shoal.trials_m").scan().sort("number").select(kept).collect()


def told(frame: pl.DataFrame) -> list[dict[int, float]]:
    return [{int(k): v for k, v in json.loads(text or "{}").items()} for text in frame["steps"]]


@pytest.mark.parametrize("kind", KINDS)
def test_hopeless_trials_are_given_up_and_the_others_stay_the_same(kind, tmp_path):
    """A trial that goes on is worth what it is worth where nothing is pruned."""
    whole = lake_at(tmp_path / "whole", kind)
    search(declare(kind, pruner=NopPruner()), whole)
    every = trials(whole)
    assert set(every["state"]) == {"complete"}
    assert all(list(steps) == [12, 25, 50] for steps in told(every))
    lake = lake_at(tmp_path / "lake", kind)
    found = search(declare(kind, pruner=MedianPruner(n_startup_trials=3)), lake)
    some = trials(lake)
    pruned = some.filter(state="pruned")
    assert pruned.height >= 2
    assert found.counts["pruned"] == pruned.height
    assert all(max(steps) in (12, 25, 50) for steps in told(pruned))
    assert [steps[max(steps)] for steps in told(pruned)] == pruned["value"].to_list()
    # Until the sampler knows of a pruned one, both searches choose alike.
    first = pruned["number"][0]
    assert some.head(first).equals(every.head(first))
    same = some.filter(state="complete").join(every, on="point", suffix="_whole")
    assert same.height >= first
    assert same["value"].to_list() == same["value_whole"].to_list()


@pytest.mark.parametrize("pruner", [MedianPruner(n_startup_trials=2), HyperbandPruner()])
def test_what_is_pruned_depends_on_no_process_and_no_break(pruner, tmp_path, monkeypatch):
    monkeypatch.setattr("shoal.training.search.trials._LOST", 0.0)
    declaration = declare("lightgbm", pruner=pruner, parallel=3)
    one, two = (lake_at(tmp_path / name, "lightgbm") for name in ("one", "two"))

    def break_off(done: int, total: int) -> None:
        _ = total
        if done >= 6:
            raise Broken

    with new_nursery() as nursery:
        search(declaration, one, workers=1, nursery=nursery)
        with pytest.raises(Broken):
            search(declaration, two, workers=3, nursery=nursery, progress=break_off)
        search(declaration, two, workers=3, nursery=nursery)
    assert trials(two).equals(trials(one))


def test_a_search_of_which_all_is_hopeless_says_so(tmp_path):
    lake = lake_at(tmp_path, "lightgbm")
    nothing = declare("lightgbm", pruner=ThresholdPruner(upper=1e-9), trials=3)
    with pytest.raises(shoal.ShoalError, match="pruned"):
        search(nothing, lake)


def test_hyperopt_prunes_nothing(tmp_path):
    lake = lake_at(tmp_path, "lightgbm")
    search(declare("lightgbm", space={"rate": hp.loguniform("rate", -9, -1)}, trials=8), lake)
    found = trials(lake)
    assert set(found["state"]) == {"complete"}
    assert found["steps"].null_count() == 8

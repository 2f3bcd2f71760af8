"""A search's trials as Optuna itself reads them."""

from __future__ import annotations

import numpy as np
import optuna
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hyperopt import hp
from lightgbm import LGBMRegressor
from mlflow.tracking import MlflowClient

import shoal
from shoal.cli import cli
from shoal.errors import TrainingError
from shoal.lake import Lake
from shoal.models import collecting_models, model
from shoal.training.search import copy_study, optuna_study, search

MODEL = """
from sklearn.linear_model import Ridge
import shoal


@shoal.model(table="gold.t", target="y", search=shoal.Search(
    space=lambda trial: {"alpha": trial.suggest_float("alpha", 1e-3, 1e3, log=True)}, trials=4))
def m(alpha):
    return Ridge(alpha=alpha)
"""


def rows(groups: int = 1) -> pa.Table:
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 3))
    key = np.array([f"g{i % groups}" for i in range(300)])
    return pa.table({"g": key, **{f"x{i}": x[:, i] for i in range(3)}, "y": x.sum(1)})


def declare(space, **changes):
    with collecting_models() as found:
        model(table="gold.t", target="y", name="m", search=shoal.Search(
            space=space, trials=8, **changes.pop("search", {})), **changes,
        )(lambda rate: LGBMRegressor(n_estimators=30, learning_rate=rate, verbose=-1))  # fmt: skip
    return found[0]


def suggest(trial):
    return {"rate": trial.suggest_float("rate", 1e-4, 0.5, log=True)}


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = Lake(tmp_path / "lake")
    lake.table("gold.t").append(rows(groups=3))
    return lake


def test_optuna_reads_what_was_tried_pruned_and_best(lake, tmp_path):
    declared = declare(suggest, search={"pruner": optuna.pruners.MedianPruner(n_startup_trials=2)})
    found = search(declared, lake)
    storage = f"sqlite:///{tmp_path}/optuna.db"
    assert copy_study(optuna_study(declared, lake), storage, "m") == 8
    study = optuna.load_study(study_name="m", storage=storage)
    kept = lake.table("shoal.trials_m").scan().sort("number").collect()
    assert [trial.state.name.lower() for trial in study.trials] == kept["state"].to_list()
    assert study.best_value == found.value
    assert study.best_params == pytest.approx(dict(found.params))
    assert list(study.trials[0].intermediate_values) == [12, 25, 50]
    assert study.user_attrs["table"] == "gold.t"
    # Again, after more trials: the study is replaced.
    search(declared, lake, trials=10)
    assert copy_study(optuna_study(declared, lake), storage, "m") == 10
    assert optuna.get_all_study_names(storage) == ["m"]


def test_one_of_many_searches_is_named(lake):
    declared = declare(suggest, by=["g"], min_rows=10, search={"per": "segment"})
    search(declared, lake)
    with pytest.raises(TrainingError, match="3 searches") as told:
        optuna_study(declared, lake)
    assert "--scope" in str(told.value)
    study = optuna_study(declared, lake, '["g1"]')
    mine = lake.table("shoal.trials_m").scan().filter(pl.col("scope") == '["g1"]').collect()
    assert sorted(t.value for t in study.trials) == sorted(mine["value"].to_list())


def test_what_cannot_be_a_study_says_so(lake):
    with pytest.raises(TrainingError, match="never searched"):
        optuna_study(declare(suggest), lake)
    with pytest.raises(TrainingError, match="Hyperopt"):
        optuna_study(declare({"rate": hp.uniform("rate", 0, 1)}), lake)


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_mlflows_own_database_is_refused_and_stays_whole(lake, tmp_path):
    declared = declare(suggest)
    search(declared, lake)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    MlflowClient(uri).create_experiment("mine")
    with pytest.raises(TrainingError, match="do not fit into one database") as told:
        copy_study(optuna_study(declared, lake), uri, "m")
    assert "search_path" in str(told.value)
    assert {e.name for e in MlflowClient(uri).search_experiments()} == {"mine", "Default"}
    with pytest.raises(TrainingError, match="cannot be opened"):
        copy_study(optuna_study(declared, lake), "nonsense", "m")


def test_the_command_fills_a_storage(tmp_path):
    root = tmp_path / "project"
    (root / "models").mkdir(parents=True)
    (root / "spark-pipeline.yml").write_text("name: p\nstorage: lake\nlibraries: []\n")
    (root / "models/m.py").write_text(MODEL)
    Lake(root / "lake").table("gold.t").append(rows().drop(["g"]))
    storage = f"sqlite:///{tmp_path}/optuna.db"
    words = ["search", "m", "--optuna", storage, "--project", str(root)]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert len(optuna.load_study(study_name="m", storage=storage).trials) == 4

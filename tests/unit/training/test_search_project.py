"""A search as a person meets it: a project, the command line, MLflow."""

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner

from projects import SmallProject
from shoal.cli import cli
from shoal.errors import ProjectError

MODEL = """
from sklearn.linear_model import Ridge

import shoal


def space(trial):
    return {"alpha": trial.suggest_float("alpha", 1e-3, 1e3, log=True)}


@shoal.model(
    table="gold.sales", target="y", by=["store"], time="day",
    search=shoal.Search(space=space, trials=6, per="PER"),
)
def sales(alpha):
    return Ridge(alpha=alpha)


@shoal.model(table="gold.sales", target="y", time="day")
def plain():
    return Ridge()
"""


def rows(first: int = 0, days: int = 60) -> pa.Table:
    random = np.random.default_rng(first)
    store = np.repeat(np.arange(6), days)
    x = random.normal(size=(len(store), 3))
    day = np.tile(np.arange(first, first + days), 6)
    y = x @ [1.0, 2.0, 0.0] * store + random.normal(size=len(x))
    return pa.table({"store": store, "day": day, **{f"x{i}": x[:, i] for i in range(3)}, "y": y})


@pytest.fixture
def project(tmp_path) -> SmallProject:
    project = SmallProject(tmp_path / "small")
    (project.root / "spark-pipeline.yml").write_text("name: small\nstorage: lake\nlibraries: []\n")
    (project.root / "models").mkdir()
    (project.root / "models" / "sales.py").write_text(MODEL.replace("PER", "fleet"))
    project.lake.table("gold.sales").append(rows())
    return project


def shoal(project: SmallProject, *words: str, code: int = 0):
    done = CliRunner().invoke(cli, [*words, "--project", str(project.root), "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_training_searches_once_and_says_what_it_found(project) -> None:
    (first,) = shoal(project, "train", "sales")
    assert first["status"] == "trained"
    assert "best mae" in first["search"]
    assert first["metrics"]["search_trials"] == 6
    with project.open() as space:
        version = space.tracker.versions("sales")[0]
        run = space.tracker._client.get_run(version.run_id)
        plans = {plan.model: plan.stale for plan in space.plan(space.options())[1]}
    assert version.tags["shoal.trials_table"] == "shoal.trials_sales"
    (best,) = (
        project.lake.table("shoal.trials_sales")
        .scan()
        .filter(pl.col("state") == "complete")
        .sort("value", "number")
        .head(1)
        .collect()
        .to_dicts()
    )
    assert run.data.params["params.alpha"] == str(json.loads(best["params"])["alpha"])
    assert run.data.metrics["search_mae"] == best["value"]
    assert version.tags["shoal.study"] == best["study"]
    assert plans["sales"] is False
    (again,) = shoal(project, "train", "sales")
    assert again["status"] == "current"
    assert again["search"] == first["search"]


def test_new_rows_are_learned_with_the_parameters_found(project) -> None:
    shoal(project, "train", "sales")
    more = rows(first=60, days=5)
    project.lake.table("gold.sales").append(more.filter(pa.compute.equal(more["store"], 2)))
    (report,) = shoal(project, "train", "sales")
    assert "1 of 6 segments fitted, 5 carried over" in report["reason"]
    # A new search takes the new rows; when it finds other parameters, all is fitted again.
    (found,) = shoal(project, "search", "sales", "--trials", "9")
    assert (found["status"], found["new"], found["table_version"]) == ("searched", 9, 1)
    (again,) = shoal(project, "search", "sales", "--trials", "9")
    assert (again["status"], again["new"]) == ("current", 0)


def test_more_trials_may_be_asked_for(project) -> None:
    (report,) = shoal(project, "train", "sales", "--trials", "2")
    assert report["metrics"]["search_trials"] == 2
    (report,) = shoal(project, "search", "--trials", "4")
    assert (report["model"], report["new"]) == ("sales", 2)


def test_what_cannot_be_searched_is_said(project) -> None:
    with project.open() as space:
        for call in (space.search, space.train):
            with pytest.raises(ProjectError, match="No search is declared by plain"):
                call(["plain"], trials=3)
    path = project.root / "models" / "sales.py"
    path.write_text(path.read_text().replace('"alpha": trial', '"aplha": trial'))
    (report,) = shoal(project, "train", "sales", code=1)
    assert "did you mean 'alpha'" in report["error"]
    assert not project.lake.table("shoal.trials_sales").exists()


def test_people_see_the_search(project) -> None:
    done = CliRunner().invoke(cli, ["search", "--project", str(project.root)])
    assert done.exit_code == 0, done.output
    assert "shoal.trials_sales" in done.output
    assert "searched" in done.output

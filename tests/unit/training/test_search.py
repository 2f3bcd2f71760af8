"""Searches: honest about the holdout, the same however often they are broken off."""

import functools
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.tree import DecisionTreeRegressor

import shoal
from shoal.errors import Conflict, ModelError, TrainingError
from shoal.lake import Lake
from shoal.models import Fleet, ModelDeclaration, collecting_models, model
from shoal.training import Nursery, new_nursery, retrain, train
from shoal.training.job import FitJob
from shoal.training.rows import clean_rows, own_rows
from shoal.training.search import Found, search
from shoal.training.search.rows import write_training_rows
from shoal.training.split import split_rows
from shoal.training.task import Task

DAYS = 100
SAME = ["scope", "number", "params", "value", "state", "steps", "rows", "error", "point"]


def line(alpha: float = 1.0, degree: int = 1):
    return make_pipeline(
        PolynomialFeatures(degree, include_bias=False), StandardScaler(), Ridge(alpha=alpha)
    )


def space(trial):
    return {
        "alpha": trial.suggest_float("alpha", 1e-3, 1e3, log=True),
        "degree": trial.suggest_categorical("degree", [1, 2]),
    }


def declare(function=line, **changes) -> ModelDeclaration:
    fields = {
        "table": "gold.sales",
        "target": "y",
        "by": ["region", "store"],
        "time": "day",
        "name": "sales",
    }
    given = {"space": space, "trials": 8} | changes.pop("search", {})
    with collecting_models() as found:
        model(**(fields | changes), search=shoal.Search(**given))(function)
    return found[0]


def sales(stores: int = 24, seed: int = 0, first: int = 0, days: int = DAYS) -> pa.Table:
    """Rows of some stores, four to a region; in regions of an odd number y is curved."""
    random = np.random.default_rng([seed, first])
    store = np.repeat(np.arange(stores), days)
    region = store // 4
    x = random.normal(size=(len(store), 2))
    curve = np.where(region % 2 == 1, x[:, 0] ** 2, 0.0)
    return pa.table(
        {
            "region": [f"r{r}" for r in region.tolist()],
            "store": store,
            "day": np.tile(np.arange(first, first + days), stores),
            "x0": x[:, 0],
            "x1": x[:, 1],
            "y": 2 * x[:, 0] - x[:, 1] + 3 * curve + 0.3 * random.normal(size=len(store)),
        }
    )


@functools.cache
def nursery() -> Nursery:
    return new_nursery()


@pytest.fixture(scope="module", autouse=True)
def _one_nursery():
    yield
    nursery().close()
    nursery.cache_clear()


@pytest.fixture
def lake(tmp_path) -> Lake:
    return lake_of(tmp_path / "lake", sales())


def lake_of(folder: Path, rows: pa.Table) -> Lake:
    lake = Lake(folder)
    lake.table("gold.sales").append(rows)
    return lake


def found_in(lake: Lake, declaration: ModelDeclaration, **options) -> Found:
    return search(declaration, lake, workers=1, nursery=nursery(), **options)


def trials(lake: Lake) -> pl.DataFrame:
    return lake.table("shoal.trials_sales").scan().collect().sort("scope", "number")


def fitted(lake: Lake, declaration: ModelDeclaration):
    return train(declaration, lake, workers=1, nursery=nursery())


def members(lake: Lake, made) -> pl.DataFrame:
    rows = lake.table(made.members_table).scan().filter(pl.col("level") == 0).collect()
    return rows.filter(pl.col("fleet_version") == made.fleet_version).sort("segment")


def test_the_best_of_a_fleet_is_trained_and_measured_as_if_declared(lake) -> None:
    declaration = declare()
    found = found_in(lake, declaration)
    assert (found.new, sum(found.counts.values()), found.scopes) == (8, 8, 1)
    assert found.params["degree"] == 2
    made = fitted(lake, found.applied(declaration))
    by_hand = fitted(lake, replace(declaration, search=None, params=dict(found.params)))
    plain = fitted(lake, replace(declaration, search=None))
    assert made.metrics["mae"] == by_hand.metrics["mae"] < plain.metrics["mae"]
    assert made.params["params.degree"] == "2"


def test_a_trial_is_measured_on_the_last_training_rows(lake) -> None:
    found_in(lake, declare(search={"trials": 1}))
    (row,) = trials(lake).to_dicts()
    params = json.loads(row["params"])
    total = 0.0
    table = sales()
    for store in range(24):
        part = table.filter(pa.compute.equal(table["store"], store))
        x = np.column_stack([part["x0"], part["x1"]])
        y = part["y"].to_numpy()
        # Of 100 days the last 20 are held out, of the 80 before them the last 16 validate.
        estimator = line(**params).fit(x[:64], y[:64])
        total += np.abs(estimator.predict(x[64:80]) - y[64:80]).sum()
    assert row["rows"] == 24 * 16
    assert row["value"] == pytest.approx(total / (24 * 16), rel=1e-8)


@pytest.mark.parametrize("per", ["fleet", "segment"])
def test_a_search_never_sees_what_is_held_out(tmp_path, per) -> None:
    rows = sales()
    held = np.asarray(rows["day"]) >= 80
    y = np.where(held, 1e6, np.asarray(rows["y"]))
    other = rows.set_column(rows.schema.get_field_index("y"), "y", pa.array(y))
    declaration = declare(search={"per": per, "trials": 4})
    one, two = lake_of(tmp_path / "one", rows), lake_of(tmp_path / "two", other)
    assert found_in(one, declaration).params == found_in(two, declaration).params
    assert trials(one).select(SAME).equals(trials(two).select(SAME))


@settings(max_examples=40, deadline=None)
@given(
    gaps=st.lists(st.booleans(), min_size=60, max_size=60),
    timed=st.booleans(),
    nan_ok=st.booleans(),
)
def test_no_estimator_s_held_out_row_is_among_the_training_rows(
    tmp_path_factory, gaps, timed, nan_ok
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    values = np.arange(60.0)
    columns = {"0": np.where(gaps, np.nan, values), "target": values}
    if timed:
        columns["time"] = np.repeat(np.arange(20), 3)
    rows = pa.table(columns)
    with pa.OSFile(str(folder / "rows"), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as out:
        out.write_table(rows)
    offsets = np.array([0, 33, 60])
    job = FitJob(
        build=Ridge, features=1, classes=0, timed=timed, nan_ok=nan_ok, metrics=("mae",),
        metric="mae", baseline="mean", holdout=0.25, min_rows=1,
    )  # fmt: skip
    chosen, edges = write_training_rows(folder / "rows", offsets, [1, 0], job, folder / "into")
    seen = pa.ipc.open_file(str(folder / "into")).read_all()["target"].to_numpy()
    assert len(edges) == len(chosen) + 1
    assert edges[-1] == len(seen) == len(set(seen))
    for either in (True, False):
        own, _ = own_rows(rows, offsets, job)
        clean, bounds = clean_rows(own, offsets, replace(job, nan_ok=either))
        for end, cut in zip(bounds[1:], split_rows(bounds, clean.moments, 0.25), strict=True):
            assert not set(seen) & set(clean.target[cut:end])
    if not any(gaps):  # nothing is lost where there is one way to hold out
        assert len(seen) == 60 - sum(15 if n == 60 else -(-n // 4) for n in (33, 27)) or timed


def test_each_segment_gets_the_parameters_that_suit_it(lake) -> None:
    declaration = declare(search={"per": "segment", "trials": 12})
    found = found_in(lake, declaration)
    assert found.scopes == len(found.tuned) == 24
    made = fitted(lake, found.applied(declaration))
    curved = {f'["r{s // 4}","{s}"]' for s in range(24) if s // 4 % 2}
    chosen = {key: params["degree"] for key, params in found.tuned.items()}
    assert {key for key, degree in chosen.items() if degree == 2} >= curved
    rows = members(lake, made)
    for row in rows.to_dicts():
        recorded = json.loads(row["params"])
        assert recorded["params.alpha"] == str(found.tuned[row["segment"]]["alpha"])
    fleet = Fleet.open(made.artifact)
    table = sales()
    for store in (3, 4):
        part = table.filter(pa.compute.equal(table["store"], store))
        x = np.column_stack([part["x0"], part["x1"]])
        expected = line(**found.tuned[f'["r{store // 4}","{store}"]']).fit(x, part["y"])
        got = fleet.predict(part)["prediction"].to_numpy()
        assert got == pytest.approx(expected.predict(x), rel=1e-8)


def test_a_group_of_segments_shares_its_parameters(lake) -> None:
    declaration = declare(search={"per": ["region"]})
    found = found_in(lake, declaration)
    assert set(found.tuned) == {f'["r{r}"]' for r in range(6)}
    assert all(found.tuned[f'["r{r}"]']["degree"] == 2 for r in (1, 3, 5))
    rows = trials(lake)
    assert rows.group_by("region").len()["len"].to_list() == [8] * 6
    assert rows["store"].null_count() == 48
    made = members(lake, fitted(lake, found.applied(declaration)))
    by_region = made.group_by("region").agg(pl.col("params").n_unique())
    assert by_region["params"].to_list() == [1] * 6


def test_a_cluster_of_segments_shares_its_parameters_and_new_segments_join_theirs(lake) -> None:
    declaration = declare(search={"per": "region"}, by=["store"])
    found = found_in(lake, declaration)
    assert set(found.tuned) == {f'{{"region":"r{r}"}}' for r in range(6)}
    assert all(found.tuned[f'{{"region":"r{r}"}}']["degree"] == 2 for r in (1, 3, 5))
    assert trials(lake)["store"].null_count() == 48
    tuned = found.applied(declaration)
    first = fitted(lake, tuned)
    made = members(lake, first).with_columns(region=pl.col("store") // 4)
    assert made.group_by("region").agg(pl.col("params").n_unique())["params"].to_list() == [1] * 6
    assert [f.name for f in Fleet.open(first.artifact).header.features] == ["x0", "x1"]
    new = sales(25).slice(24 * DAYS).to_pydict() | {"region": ["r3"] * DAYS}
    lake.table("gold.sales").append(pa.table(new))
    again = retrain(tuned, lake, since=first.members_version, workers=1, nursery=nursery())
    assert again.reason.startswith("1 of 25 segments fitted")
    rows = {r["segment"]: json.loads(r["params"]) for r in members(lake, again).to_dicts()}
    assert rows['["24"]']["params.degree"] == rows['["12"]']["params.degree"] == "2"
    apart = declare(search={"per": ["region", "day"]}, by=["store"])
    with pytest.raises(TrainingError, match="cluster is made of whole segments"):
        found_in(lake, apart)
    with pytest.raises(TrainingError, match="did you mean 'region'"):
        found_in(lake, declare(search={"per": "regions"}, by=["store"]))
    with pytest.raises(ModelError, match="declares no by"):
        declare(search={"per": "region"}, by=[])


def test_key_columns_may_be_named_as_those_of_the_table_of_trials(tmp_path) -> None:
    names = ["number", "value", "day", "x0", "x1", "y"]
    lake = lake_of(tmp_path / "lake", sales(8).rename_columns(names))
    found = found_in(lake, declare(by=["number", "value"], search={"per": "number", "trials": 2}))
    assert set(found.tuned) == {'["r0"]', '["r1"]'}
    assert trials(lake)["by_number"].to_list() == ["r0", "r0", "r1", "r1"]


def test_fits_one_by_one_find_what_batches_find(lake, tmp_path) -> None:
    other = lake_of(tmp_path / "other", sales())
    options = {"per": "segment", "trials": 3}
    found_in(lake, declare(search=options))
    found_in(other, declare(search=options, batched=False))
    one, two = trials(lake), trials(other)
    assert one["params"].equals(two["params"])
    assert one["value"].to_numpy() == pytest.approx(two["value"].to_numpy(), rel=1e-8)


class Broken(Exception):
    pass


@pytest.mark.parametrize("per", ["fleet", "segment", "region"])
@pytest.mark.parametrize("kind", ["optuna", "hyperopt"])
def test_a_search_that_was_broken_off_goes_on_as_if_it_was_not(
    lake, tmp_path, per, kind, monkeypatch
) -> None:
    monkeypatch.setattr("shoal.training.search.trials._LOST", 0.0)
    options = {"per": per, "trials": 6}
    if kind == "hyperopt":
        from hyperopt import hp

        degrees = hp.choice("degree", [1, 2])
        options["space"] = {"alpha": hp.loguniform("alpha", -7, 7), "degree": degrees}
    declaration = declare(search=options)
    whole = lake_of(tmp_path / "whole", sales())
    expected = found_in(whole, declaration)

    def break_off(done: int, total: int) -> None:
        if done >= total // 3:
            raise Broken

    with pytest.raises(Broken):
        found_in(lake, declaration, progress=break_off)
    kept = trials(lake).height
    assert 0 < kept < trials(whole).height
    found = found_in(lake, declaration)
    assert found.new == trials(whole).height - kept
    assert (found.params, found.tuned) == (expected.params, expected.tuned)
    columns = [c for c in SAME if c != "error"]
    assert trials(lake).select(columns).equals(trials(whole).select(columns))


def test_a_finished_search_is_not_made_again_until_asked(lake) -> None:
    declaration = declare()
    first = found_in(lake, declaration)
    version = lake.table("shoal.trials_sales").version()
    again = found_in(lake, declaration)
    assert (again.new, again.params, again.study) == (0, first.params, first.study)
    # New rows change nothing, until a search of them is asked for.
    lake.table("gold.sales").append(sales(first=DAYS, days=5))
    assert found_in(lake, declaration).study == first.study
    assert lake.table("shoal.trials_sales").version() == version
    anew = found_in(lake, declaration, anew=True)
    assert (anew.new, anew.table_version) == (8, 1)
    assert found_in(lake, declaration).study == anew.study
    assert found_in(lake, declaration, anew=True).new == 0


def test_more_trials_go_on_from_those_there_are(lake, tmp_path) -> None:
    declaration = declare()
    found_in(lake, declaration, trials=5)
    found = found_in(lake, declaration)
    assert (found.new, sum(found.counts.values())) == (3, 8)
    whole = lake_of(tmp_path / "whole", sales())
    found_in(whole, declaration)
    assert trials(lake).select(SAME).equals(trials(whole).select(SAME))


@pytest.mark.parametrize(
    "change",
    [
        {"space": {"alpha": [0.1, 1.0]}},
        {"space": lambda trial: {"alpha": trial.suggest_float("alpha", 1, 2)}},
        {"validation": 0.3},
        {"per": "segment"},
    ],
)
def test_another_space_is_another_search(lake, change) -> None:
    first = found_in(lake, declare(search={"trials": 2}))
    second = found_in(lake, declare(search={"trials": 2} | change))
    assert second.study != first.study
    assert second.new


def test_changed_segments_are_fitted_again_with_the_parameters_found(lake) -> None:
    declaration = declare(search={"per": "segment", "trials": 4})
    tuned = found_in(lake, declaration).applied(declaration)
    first = fitted(lake, tuned)
    options = {"since": first.members_version, "workers": 1, "nursery": nursery()}
    assert retrain(tuned, lake, **options) is None
    more = sales(first=DAYS, days=3)
    more = more.filter(pa.compute.is_in(more["store"], pa.array([5, 6])))
    lake.table("gold.sales").append(more)
    tuned = found_in(lake, declaration).applied(declaration)
    made = retrain(tuned, lake, **options)
    assert made.reason.startswith("2 of 24 segments fitted")
    full = fitted(lake, tuned)
    ours, theirs = members(lake, made), members(lake, full)
    assert ours.select("segment", "params").equals(theirs.select("segment", "params"))
    assert ours["state"].to_list() == theirs["state"].to_list()


def test_a_trial_that_is_worse_half_way_is_pruned(lake) -> None:
    import optuna

    pruner = optuna.pruners.MedianPruner(n_startup_trials=2)
    found = found_in(lake, declare(search={"trials": 12, "pruner": pruner}))
    assert found.counts["pruned"] > 0
    rows = trials(lake)
    pruned = rows.filter(state="pruned").to_dicts()[0]
    steps = json.loads(pruned["steps"])
    assert pruned["value"] == steps[max(steps, key=int)]
    assert pruned["rows"] < rows.filter(state="complete")["rows"][0]
    best = rows.filter(state="complete").sort("value")
    assert json.loads(best["params"][0]) == found.params


def test_failed_trials_are_rows_and_no_reason_to_stop(lake) -> None:
    options = {"space": {"alpha": [-1.0, 1.0]}, "trials": 6}
    found = found_in(lake, declare(search=options))
    assert found.params == {"alpha": 1.0}
    assert found.counts["failed"] > 0
    row = trials(lake).filter(state="failed").to_dicts()[0]
    assert "alpha" in row["error"]
    assert row["value"] is None


@pytest.mark.parametrize("per", ["fleet", "segment"])
def test_when_all_fail_the_error_is_told_and_nothing_is_committed(lake, per) -> None:
    options = {"space": {"alpha": [-1.0, -2.0]}, "trials": 2, "per": per}
    with pytest.raises(TrainingError, match="trials of its search failed.*alpha"):
        found_in(lake, declare(search=options))
    assert not lake.table("shoal.trials_sales").exists()


def fragile(depth: int):
    return DecisionTreeRegressor(max_depth=depth, min_samples_leaf=10)


class Picky(Ridge):
    """Refuses segments whose first feature is large."""

    def fit(self, features, target):
        if self.alpha < 1 and features[0, 1] > 0:
            raise ValueError("too large")
        return super().fit(features, target)


def test_a_segment_that_a_trial_cannot_fit_counts_as_the_baseline(lake) -> None:
    declaration = declare(
        lambda alpha: Picky(alpha=alpha),
        search={"space": {"alpha": [0.5, 5.0]}, "trials": 6},
    )
    found_in(lake, declaration)
    rows = trials(lake).unique("params").sort("params")
    assert rows["state"].to_list() == ["complete"] * 2
    picky, fine = rows["value"].to_list()
    assert picky > 1.2 * fine
    assert rows["rows"][0] < rows["rows"][1] == 24 * 16


def test_two_searches_of_the_same_study_do_not_mix(lake, monkeypatch) -> None:
    monkeypatch.setattr("shoal.training.search.trials._LOST", 0.0)
    declaration = declare()
    other: list[Found] = []

    def meanwhile(done: int, total: int) -> None:
        if done == 4 and not other:
            other.append(found_in(lake, declaration))

    with pytest.raises(Conflict, match="Another search"):
        found_in(lake, declaration, progress=meanwhile)
    rows = trials(lake)
    assert rows["number"].to_list() == list(range(8))
    assert found_in(lake, declaration).params == other[0].params


def test_a_table_without_segments_is_searched_too(lake) -> None:
    declaration = declare(
        fragile,
        by=[],
        search={"space": lambda t: {"depth": t.suggest_int("depth", 1, 6)}, "trials": 5},
    )
    found = found_in(lake, declaration)
    assert trials(lake)["scope"].to_list() == ["[]"] * 5
    assert fitted(lake, found.applied(declaration)).params["params.depth"] == str(
        found.params["depth"]
    )


def test_a_greater_metric_is_the_better_one(tmp_path) -> None:
    rows = sales()
    rows = rows.set_column(rows.schema.get_field_index("y"), "y", pa.compute.greater(rows["y"], 1))
    lake = lake_of(tmp_path / "lake", rows)
    found = found_in(
        lake,
        declare(
            lambda C: LogisticRegression(C=C),
            metric="accuracy",
            search={"space": {"C": [1e-6, 1.0]}, "trials": 4},
        ),
    )
    assert found.params == {"C": 1.0}
    assert found.value == trials(lake)["value"].max()


@pytest.mark.parametrize("metric", ["mase", "rmse", "bias", "r2", "pinball_90"])
def test_every_kind_of_metric_can_be_searched_by(lake, metric) -> None:
    declaration = declare(metric=metric, search={"trials": 6}, backtest=2, interval=0.8)
    found = found_in(lake, declaration)
    values = trials(lake).filter(state="complete")["value"]
    assert found.value == (values.max() if metric == "r2" else values.min())
    assert fitted(lake, found.applied(declaration)).metrics["segments_ok"] == 24


def test_an_optuna_sampler_and_its_end(lake) -> None:
    import optuna

    space = {"alpha": [0.1, 1.0, 10.0], "degree": [1, 2]}
    grid = optuna.samplers.GridSampler(space, seed=0)
    declaration = declare(search={"space": space, "sampler": grid, "trials": 50})
    found = found_in(lake, declaration)
    assert sorted(
        {(json.loads(p)["alpha"], json.loads(p)["degree"]) for p in trials(lake)["params"]}
    ) == sorted((a, d) for a in space["alpha"] for d in space["degree"])
    assert trials(lake).height == 6
    assert found_in(lake, declaration).study == found.study


def test_each_segment_s_own_study_and_its_sampler(lake) -> None:
    import optuna

    declaration = declare(
        search={
            "per": "segment",
            "trials": 3,
            "sampler": lambda seed: optuna.samplers.RandomSampler(seed=seed),
        },
        batched=False,
    )
    found_in(lake, declaration)
    assert trials(lake).unique("params").height == 72


def test_choices_that_are_no_plain_values(lake) -> None:
    def tree(limits):
        depth, leaf = limits
        return DecisionTreeRegressor(max_depth=depth, min_samples_leaf=leaf)

    options = {"space": {"limits": [(1, 5), (3, 5), (None, 2)]}, "trials": 4}
    found = found_in(lake, declare(tree, search=options))
    assert found.params["limits"] in options["space"]["limits"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": {}}, "empty"),
        ({"space": {"alhpa": [1.0]}}, "did you mean 'alpha'"),
        ({"space": {"alpha": 3.0}}, "list of choices"),
        ({"space": {"alpha": []}}, "list of choices"),
        ({"space": [1.0]}, "expected a dict"),
        ({"trials": 0}, "trials is 0"),
        ({"validation": 1.0}, "validation"),
    ],
)
def test_a_wrong_search_says_what_is_wrong(options, message) -> None:
    with pytest.raises(ModelError, match=message):
        declare(search=options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda trial: {"alhpa": trial.suggest_float("a", 0, 1)}, "did you mean 'alpha'"),
        (lambda trial: 1 / 0, "raised ZeroDivisionError"),
        (lambda trial: [trial.suggest_float("a", 0, 1)], "expected a dict"),
    ],
)
def test_a_wrong_space_function_says_what_is_wrong(lake, wrong, message) -> None:
    with pytest.raises(ModelError, match=message):
        found_in(lake, declare(search={"space": wrong}))


def test_a_missing_library_is_named_with_its_extra(lake, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(TrainingError, match=r"pip install 'shoal\[optuna\]'"):
        found_in(lake, declare())


def test_too_few_rows_for_any_segment(lake) -> None:
    with pytest.raises(TrainingError, match="min_rows = 1000"):
        found_in(lake, declare(min_rows=1000))


@given(
    offsets=st.lists(st.integers(0, 2**40), min_size=2, max_size=6),
    chosen=st.booleans(),
    group=st.booleans(),
    note=st.binary(max_size=20),
)
def test_a_task_crosses_the_pipe(offsets, chosen, group, note) -> None:
    choices = np.arange(len(offsets) - 1) if chosen else None
    task = Task(first=7, offsets=np.array(offsets), group=group, choices=choices, note=note)
    found = Task.from_bytes(task.to_bytes())
    assert found.offsets.tolist() == offsets
    assert (found.first, found.group, found.note) == (7, group, note)
    assert (found.choices is None) == (choices is None)
    assert choices is None or found.choices.tolist() == choices.tolist()

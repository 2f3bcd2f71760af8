"""A search is killed, or loses a worker: what was measured is kept."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from sklearn.linear_model import Ridge

import shoal
from shoal.lake import Lake
from shoal.models import ModelDeclaration, collecting_models, model
from shoal.training import train
from shoal.training.search import search

SAME = ["scope", "number", "params", "value", "state", "rows", "point"]

# In the process that is killed slow enough that a batch of trials is committed before the end.
MODEL = """
import os
import time
from sklearn.linear_model import Ridge

import shoal


class Slow(Ridge):
    def fit(self, features, target):
        end = time.process_time() + float(os.environ.get("SLOW_FIT", 0))
        while time.process_time() < end:
            pass
        return super().fit(features, target)


def space(trial):
    return {"alpha": trial.suggest_float("alpha", 1e-3, 1e3, log=True)}


def declared():
    from shoal.models import collecting_models

    with collecting_models() as found:
        shoal.model(
            table="gold.sales", target="y", by=["store"], name="sales",
            search=shoal.Search(space=space, trials=24, per="PER"),
        )(lambda alpha: Slow(alpha=alpha))
    return found[0]
"""


def lake_of(folder: Path, stores: int = 40, rows: int = 60) -> Lake:
    random = np.random.default_rng(0)
    store = np.repeat(np.arange(stores), rows)
    x = random.normal(size=(stores * rows, 3))
    y = x @ [1.0, 2.0, 3.0] + random.normal(size=len(x))
    columns = {f"x{i}": x[:, i] for i in range(3)}
    lake = Lake(folder)
    lake.table("gold.sales").append(pa.table({"store": store, **columns, "y": y}))
    return lake


def trials(lake: Lake) -> pl.DataFrame:
    return lake.table("shoal.trials_sales").scan().collect().sort("scope", "number")


@pytest.mark.slow
@pytest.mark.parametrize("per", ["fleet", "segment"])
def test_a_killed_search_goes_on_from_its_trials(tmp_path, per, monkeypatch) -> None:
    (tmp_path / "slow_model.py").write_text(MODEL.replace("PER", per))
    lake, whole = lake_of(tmp_path / "lake"), lake_of(tmp_path / "whole")
    script = """
        import sys
        from slow_model import declared
        from shoal.lake import Lake
        from shoal.training.search import search
        search(declared(), Lake(sys.argv[1]), workers=2)
    """
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "SLOW_FIT": "0.012"}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), lake.table("gold.sales").path.rsplit("/gold", 1)[0]],
        env=environment, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not lake.table("shoal.trials_sales").exists() or not trials(lake).height:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < until
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = trials(lake).height
    total = 24 * (40 if per == "segment" else 1)
    assert 0 < kept < total
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("slow_model", None)
    from slow_model import declared

    found = search(declared(), lake, workers=2)
    expected = search(declared(), whole, workers=2)
    assert found.new == total - kept
    assert (found.params, found.tuned) == (expected.params, expected.tuned)
    assert trials(lake).select(SAME).equals(trials(whole).select(SAME))


class Deadly(Ridge):
    """Kills its process on the segment of large targets, with a small alpha."""

    def fit(self, features, target):
        if self.alpha < 1 and target.mean() > 500:
            os._exit(3)
        return super().fit(features, target)


def deadly(per: str) -> ModelDeclaration:
    with collecting_models() as found:
        model(
            table="gold.sales",
            target="y",
            by=["store"],
            name="sales",
            search=shoal.Search(space={"alpha": [0.5, 2.0]}, trials=8, per=per),
        )(lambda alpha: Deadly(alpha=alpha))
    return found[0]


@pytest.mark.parametrize("per", ["fleet", "segment"])
def test_a_dead_worker_costs_its_segment_one_trial_or_all(tmp_path, per) -> None:
    lake = lake_of(tmp_path / "lake", stores=6)
    rows = lake.table("gold.sales").scan().collect()
    rows = rows.with_columns(y=pl.col("y") + pl.when(pl.col("store") == 3).then(1000).otherwise(0))
    lake.table("gold.sales").append(rows.to_arrow(), overwrite=True)
    declaration = deadly(per)
    found = search(declaration, lake, workers=2)
    if per == "fleet":
        # The segment counts as its mean where its worker died.
        assert set(trials(lake)["state"]) == {"complete"}
        by_alpha = {json.loads(r["params"])["alpha"]: r for r in trials(lake).to_dicts()}
        assert by_alpha[0.5]["rows"] < by_alpha[2.0]["rows"]
    else:
        lost = trials(lake).filter(scope='["3"]')
        assert set(lost["state"]) == {"failed"}
        assert set(lost["error"]) == {"worker ended (exit code 3)"}
        assert '["3"]' not in found.tuned
    made = train(found.applied(declaration), lake, workers=2)
    assert made.metrics["segments_ok"] >= 5

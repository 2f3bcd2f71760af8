"""What cannot be stored otherwise is pickled only where the declaration says so, and marked."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import TunedThresholdClassifierCV

from projects import SmallProject
from shoal.errors import ModelError, TrainingError
from shoal.lake import Lake
from shoal.models import Fleet, collecting_models, model
from shoal.serving import ServedModels
from shoal.training import train

MODEL = """
import shoal
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import TunedThresholdClassifierCV

@shoal.model(table="gold.t", target="y", by=["k"], time="t", metric="accuracy", trust_pickle=True)
def tuned():
    return TunedThresholdClassifierCV(LogisticRegression(), cv=2)
"""


def rows(count: int = 120) -> pa.Table:
    random = np.random.default_rng(0)
    x = random.normal(size=count)
    y = (x + random.normal(size=count) > 0).astype(np.int64)
    return pa.table({"k": ["a", "b"] * (count // 2), "t": range(count), "x": x, "y": y})


def declare(**changes):
    fields = {"table": "gold.t", "target": "y", "by": ["k"], "time": "t", "metric": "accuracy"}
    with collecting_models() as found:
        model(**(fields | changes), name="tuned")(
            lambda: TunedThresholdClassifierCV(LogisticRegression(), cv=2)
        )
    return found[0]


def test_without_trust_it_is_refused_with_the_way_out(tmp_path) -> None:
    lake = Lake(tmp_path)
    lake.table("gold.t").append(rows())
    with pytest.raises(TrainingError, match="without pickle"):
        train(declare(), lake)
    assert not lake.table("shoal.fleet_tuned").exists()


def test_pickled_members_are_marked_and_opened_only_with_trust(tmp_path, monkeypatch) -> None:
    lake = Lake(tmp_path)
    lake.table("gold.t").append(rows())
    trained = train(declare(trust_pickle=True), lake)
    assert lake.table(trained.members_table).scan().collect()["pickled"].to_list() == [True] * 3
    with pytest.raises(ModelError, match="runs whatever code") as refused:
        Fleet.open(trained.artifact)
    assert "--trust-pickle" in (refused.value.hint or "")
    trusted = Fleet.open(trained.artifact, trust_pickle=True).predict(rows())
    assert trusted["prediction"].null_count == 0
    monkeypatch.setenv("SHOAL_TRUST_PICKLE", "1")
    assert Fleet.open(trained.artifact).predict(rows()).equals(trusted)


def test_the_server_must_be_told_and_scoring_goes_by_the_declaration(tmp_path) -> None:
    project = SmallProject(tmp_path / "p")
    (project.root / "models").mkdir()
    (project.root / "models" / "m.py").write_text(MODEL)
    project.lake.table("gold.t").append(rows())
    with project.open() as space:
        (report,) = space.train()
        assert report.status == "trained", report.error
        (scored,) = space.score()
        assert (scored.status, scored.rows) == ("scored", 120), scored.error
        with pytest.raises(ModelError, match="runs whatever code"):
            ServedModels.load(space.tracker)
        assert len(space.served(trust_pickle=True)) == 1

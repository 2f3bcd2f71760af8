"""Models of other kinds than fleets: opened as data or not at all, and served by name."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.models import infer_signature
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from servers import JSON, call
from shoal.errors import ModelError, TrackingError
from shoal.serving import Opening, ServedModel, ServedModels, create_app
from shoal.tracking import Tracker
from shoal.tracking.quiet import quietly
from shoal.tracking.reading import read_recorded

RANDOM = np.random.default_rng(0)
FRAME = pd.DataFrame(RANDOM.normal(size=(80, 3)), columns=["a", "b", "c"])
TARGET = 2 * FRAME["a"] - FRAME["b"] + 0.1 * FRAME["c"]
LABELS = np.where(TARGET > 0, "up", "down")


def saved(folder: Path, flavor: str, model: Any, target: Any = TARGET, **more: Any) -> Path:
    """A folder as plain MLflow saves it."""
    import importlib

    module = importlib.import_module(f"mlflow.{flavor}")
    with quietly("save a model"):
        module.save_model(
            model,
            str(folder),
            signature=infer_signature(FRAME, target),
            input_example=FRAME.head(20),
            pip_requirements=[],
            **more,
        )
    return folder


def opened(folder: Path, **how: Any) -> ServedModel:
    return Opening(**how).open("score", 1, read_recorded(folder))


def asked(model: ServedModel, rows: int = 5) -> list[Any]:
    """What a server answers."""
    app = create_app(ServedModels([model]), default=None)
    body = json.dumps({"dataframe_split": FRAME.head(rows).to_dict("split")}).encode()
    answer = call(app, "POST", "/models/score/invocations", body, JSON)
    assert answer.status == 200, answer.body
    found: list[Any] = answer.json()["predictions"]
    return found


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fitted = RandomForestRegressor(5, random_state=0).fit(FRAME, TARGET)
    trusted = ["sklearn.tree._tree.Tree"]
    where = tmp_path_factory.mktemp("forest") / "model"
    return saved(where, "sklearn", fitted, skops_trusted_types=trusted)


def test_scikit_learn_is_opened_by_our_own_list(forest: Path) -> None:
    fitted = RandomForestRegressor(5, random_state=0).fit(FRAME, TARGET)
    model = opened(forest)
    assert asked(model) == fitted.predict(FRAME.head(5)).tolist()
    app = create_app(ServedModels([model]), default=None)
    inputs = [
        {"name": n, "shape": [2], "datatype": "FP64", "data": FRAME[n].head(2).tolist()}
        for n in FRAME
    ]
    answer = call(app, "POST", "/v2/models/score/infer", json.dumps({"inputs": inputs}).encode())
    assert answer.json()["outputs"][0]["data"] == fitted.predict(FRAME.head(2)).tolist()
    assert call(app, "GET", "/openapi.json").status == 200
    missing = call(app, "POST", "/invocations", b'{"dataframe_records": [{"a": 1}]}')
    assert (missing.status, b"lacks the columns 'b', 'c'" in missing.body) == (400, True)


def test_labels_and_probabilities(tmp_path: Path) -> None:
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(FRAME, LABELS)
    labels = saved(tmp_path / "labels", "sklearn", fitted, LABELS)
    assert asked(opened(labels)) == fitted.predict(FRAME.head(5)).tolist()
    shares = saved(
        tmp_path / "shares", "sklearn", fitted, fitted.predict_proba(FRAME),
        pyfunc_predict_fn="predict_proba",
    )  # fmt: skip
    # MLflow lays the rows out in its own way, and BLAS then rounds the last bits otherwise.
    expected = fitted.predict_proba(FRAME.head(5))
    np.testing.assert_allclose(asked(opened(shares)), expected, rtol=1e-12)
    app = create_app(ServedModels([opened(shares)]), default=None)
    matrix = {
        "name": "x",
        "shape": [2, 3],
        "datatype": "FP64",
        "data": FRAME.head(2).values.tolist(),
    }
    answer = call(app, "POST", "/v2/models/score/infer", json.dumps({"inputs": [matrix]}).encode())
    assert answer.json()["outputs"][0]["shape"] == [2, 2]


def test_boosters_in_their_own_files(tmp_path: Path) -> None:
    import lightgbm
    import xgboost

    boosted = xgboost.XGBRegressor(n_estimators=5).fit(FRAME, TARGET)
    folder = saved(tmp_path / "xgboost", "xgboost", boosted)
    assert asked(opened(folder)) == pytest.approx(boosted.predict(FRAME.head(5)).tolist())
    data = lightgbm.Dataset(FRAME, TARGET)
    booster = lightgbm.train({"verbosity": -1}, data, num_boost_round=5)
    folder = saved(tmp_path / "lightgbm", "lightgbm", booster)
    assert asked(opened(folder)) == pytest.approx(booster.predict(FRAME.head(5)).tolist())


def test_what_is_pickled_is_refused_until_it_is_trusted(tmp_path: Path) -> None:
    fitted = RandomForestClassifier(3, random_state=0).fit(FRAME, LABELS)
    folder = saved(
        tmp_path / "pickled", "sklearn", fitted, LABELS, serialization_format="cloudpickle"
    )
    with pytest.raises(ModelError, match=r"is pickled \(model.pkl\)") as caught:
        opened(folder)
    assert "--trust-pickle" in (caught.value.hint or "")
    assert asked(opened(folder, trust_pickle=True)) == fitted.predict(FRAME.head(5)).tolist()


def test_a_model_that_comes_with_code_is_refused(forest: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(forest, tmp_path / "model"))
    text = (folder / "MLmodel").read_text()
    (folder / "MLmodel").write_text(
        text.replace("python_function:\n", "python_function:\n    code: code\n")
    )
    with pytest.raises(ModelError, match="comes with code"):
        opened(folder)


def test_a_model_without_a_signature_is_told_what_it_lacks(tmp_path: Path) -> None:
    import mlflow.sklearn

    fitted = LogisticRegression().fit(FRAME, LABELS)
    with quietly("save"):
        mlflow.sklearn.save_model(fitted, str(tmp_path / "model"), pip_requirements=[])
    with pytest.raises(TrackingError, match="no signature"):
        opened(tmp_path / "model")


def test_it_is_served_by_name_beside_fleets(forest: Path, tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", None, "other")
    with quietly("register"):
        client = tracker._client
        client.create_registered_model("score")
        client.create_model_version("score", str(forest))
    models = ServedModels.load(tracker, ["score"])
    assert len(asked(next(iter(models)))) == 5
    assert models.refresh() == []
    # Without a name only Shoal's own models are served.
    with pytest.raises(TrackingError, match="no model to serve"):
        ServedModels.load(tracker)


def test_onnx_takes_the_place_of_what_it_equals(
    forest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    fitted = RandomForestRegressor(5, random_state=0).fit(FRAME, TARGET)
    model = opened(forest, onnx=True)
    assert "served by ONNX Runtime, equal to" in caplog.text
    assert type(model.fleet._predict.__self__).__name__ == "OnnxEstimator"  # type: ignore[attr-defined]
    assert asked(model) == pytest.approx(fitted.predict(FRAME.head(5)).tolist(), rel=1e-5)
    labels = make_pipeline(StandardScaler(), LogisticRegression()).fit(FRAME, LABELS)
    folder = saved(tmp_path / "labels", "sklearn", labels, LABELS)
    assert asked(opened(folder, onnx=True)) == labels.predict(FRAME.head(5)).tolist()


def test_onnx_that_differs_is_not_used(
    forest: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from shoal.serving import onnx

    monkeypatch.setattr(onnx, "TOLERANCE", -1.0)
    model = opened(forest, onnx=True)
    assert "served without ONNX" in caplog.text
    assert "predictions differ by" in caplog.text
    fitted = RandomForestRegressor(5, random_state=0).fit(FRAME, TARGET)
    assert asked(model) == fitted.predict(FRAME.head(5)).tolist()


def test_rows_that_an_estimator_refuses_are_the_senders(forest: Path) -> None:
    app = create_app(ServedModels([opened(forest)]), default=None)
    body = json.dumps({"dataframe_records": [{"a": "x", "b": 1, "c": 1}]}).encode()
    answer = call(app, "POST", "/invocations", body)
    assert answer.status == 400
    assert answer.json()["message"] == "Row 0, column 'a': found 'x'; expected a number or null."


def test_a_table_of_no_rows_is_answered(forest: Path) -> None:
    found = opened(forest).fleet.predict(pa.table({n: pa.array([], pa.float64()) for n in FRAME}))
    assert found.num_rows == 0

"""MLServer's runtime for MLflow and Shoal say the same of one model, in both protocols."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from servers import Answer, call, send
from shoal.serving import Opening, ServedModels, create_app
from shoal.tracking.quiet import quietly
from shoal.tracking.reading import read_recorded

MLSERVER = Path(__file__).parents[2] / ".tools/mlserver/bin/mlserver"

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not MLSERVER.exists(), reason="no MLServer: make servers-heavy"),
]

FRAME = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), columns=["a", "b", "c"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import mlflow.sklearn
    from mlflow.models import infer_signature
    from sklearn.linear_model import Ridge

    where = tmp_path_factory.mktemp("model") / "score"
    fitted = Ridge().fit(FRAME, FRAME["a"] - 2 * FRAME["b"])
    with quietly("save a model"):
        signature = infer_signature(FRAME, fitted.predict(FRAME))
        mlflow.sklearn.save_model(fitted, str(where), signature=signature, pip_requirements=[])
    return where


@pytest.fixture(scope="module")
def ours(folder: Path) -> Any:
    model = Opening().open("score", 1, read_recorded(folder))
    return create_app(ServedModels([model]), default=None)


@pytest.fixture(scope="module")
def theirs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLServer's URL."""
    made = tmp_path_factory.mktemp("mlserver")
    ports = []
    for _ in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    settings = dict(zip(("http_port", "grpc_port", "metrics_port"), ports, strict=True))
    (made / "settings.json").write_text(json.dumps(settings | {"parallel_workers": 0}))
    model = {"name": "score", "implementation": "mlserver_mlflow.MLflowRuntime"}
    parameters = {"parameters": {"uri": str(folder)}}
    (made / "model-settings.json").write_text(json.dumps(model | parameters))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    with (made / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [MLSERVER, "start", made], stdout=log, stderr=log, env=environment, cwd=made
        )
    url = f"http://127.0.0.1:{ports[0]}"
    try:
        end = time.monotonic() + 200
        while True:
            assert process.poll() is None, (made / "log.txt").read_text()
            assert time.monotonic() < end, (made / "log.txt").read_text()
            try:
                if send(url, "GET", "/v2/models/score/ready").status == 200:
                    break
            except OSError:
                pass
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def both(ours: Any, theirs: str, method: str, path: str, content: Any = None) -> list[Answer]:
    body = b"" if content is None else json.dumps(content).encode()
    return [call(ours, method, path, body), send(theirs, method, path, body or None)]


@pytest.mark.timeout(280)
def test_the_open_inference_protocol(ours: Any, theirs: str) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/score/ready"):
        assert [a.status for a in both(ours, theirs, "GET", path)] == [200, 200], path
    assert [a.status for a in both(ours, theirs, "GET", "/v2/models/none")] == [404, 404]
    mine, other = (a.json() for a in both(ours, theirs, "GET", "/v2/models/score"))
    pick = [[(i["name"], i["datatype"]) for i in found["inputs"]] for found in (mine, other)]
    assert pick[0] == pick[1] == [(name, "FP64") for name in FRAME]
    data = {name: FRAME[name].head(4).tolist() for name in FRAME}
    request = {
        "id": "seven",
        "inputs": [
            {"name": n, "shape": [4, 1], "datatype": "FP64", "data": values}
            for n, values in data.items()
        ],
    }
    mine, other = (a.json() for a in both(ours, theirs, "POST", "/v2/models/score/infer", request))
    assert mine["id"] == other["id"] == "seven"
    assert mine["model_name"] == other["model_name"] == "score"
    outputs = [found["outputs"][0] for found in (mine, other)]
    assert outputs[0]["datatype"] == outputs[1]["datatype"] == "FP64"
    assert outputs[0]["shape"][0] == outputs[1]["shape"][0] == 4
    np.testing.assert_allclose(outputs[0]["data"], np.ravel(outputs[1]["data"]), rtol=1e-12)


@pytest.mark.timeout(280)
def test_mlflows_protocol(ours: Any, theirs: str) -> None:
    split = FRAME.head(3).to_dict("split")
    good = [
        {"dataframe_split": {"columns": split["columns"], "data": split["data"]}},
        {"dataframe_split": split},
        {"dataframe_records": FRAME.head(3).to_dict("records")},
        {"inputs": FRAME.head(3).to_dict("list")},
        {"instances": FRAME.head(3).to_dict("records")},
    ]
    for content in good:
        mine, other = both(ours, theirs, "POST", "/invocations", content)
        assert (mine.status, other.status) == (200, 200), content
        np.testing.assert_allclose(
            mine.json()["predictions"], other.json()["predictions"], rtol=1e-12
        )
    for content in ({}, {"inputs": {"a": [1.0]}}, {"dataframe_records": [{"a": 1.0}]}):
        mine, other = both(ours, theirs, "POST", "/invocations", content)
        assert mine.status == 400, content
        assert other.status >= 400, content

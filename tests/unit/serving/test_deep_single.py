"""PyTorch and TensorFlow models that plain MLflow logged, served by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mlflow.models import infer_signature

from servers import call
from shoal.errors import ModelError
from shoal.serving import Opening, ServedModels, create_app
from shoal.tracking.quiet import quietly
from shoal.tracking.reading import read_recorded

pytestmark = [
    pytest.mark.heavy,
    # What the libraries' own savers and loaders warn of is not ours to mend.
    pytest.mark.filterwarnings("ignore"),
]

ROWS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def answers(folder: Path, *, trust_pickle: bool) -> list[object]:
    model = Opening(trust_pickle=trust_pickle).open("net", 1, read_recorded(folder))
    app = create_app(ServedModels([model]), default=None)
    body = json.dumps({"inputs": ROWS.tolist()}).encode()
    answer = call(app, "POST", "/models/net/invocations", body)
    assert answer.status == 200, answer.body
    tensor = {"name": "x", "shape": [6, 3], "datatype": "FP32", "data": ROWS.ravel().tolist()}
    infer = call(app, "POST", "/v2/models/net/infer", json.dumps({"inputs": [tensor]}).encode())
    output = infer.json()["outputs"][0]
    found: list[object] = answer.json()["predictions"]
    assert np.array(found).ravel().tolist() == output["data"]
    short = call(app, "POST", "/invocations", b'{"inputs": [[1.0, 2.0]]}')
    assert (short.status, b"expected a list of 3 numbers" in short.body) == (400, True)
    return found


def test_pytorch(tmp_path: Path) -> None:
    import mlflow.pytorch
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
    expected = net(torch.from_numpy(ROWS)).detach().numpy()
    with quietly("save"):
        mlflow.pytorch.save_model(
            net,
            str(tmp_path / "net"),
            signature=infer_signature(ROWS, expected),
            serialization_format="pickle",
            pip_requirements=[],
        )
    with pytest.raises(ModelError, match="is of a kind|is pickled"):
        answers(tmp_path / "net", trust_pickle=False)
    found = answers(tmp_path / "net", trust_pickle=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_tensorflow(tmp_path: Path) -> None:
    import keras
    import mlflow.tensorflow

    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [keras.layers.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)]
    )
    expected = net.predict(ROWS, verbose=0)
    with quietly("save"):
        mlflow.tensorflow.save_model(
            net,
            str(tmp_path / "net"),
            signature=infer_signature(ROWS, expected),
            pip_requirements=[],
        )
    found = answers(tmp_path / "net", trust_pickle=False)
    np.testing.assert_allclose(found, expected.ravel(), rtol=1e-5)

"""Networks as members: their bits come back, their code runs only where it is trusted."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

torch = pytest.importorskip("torch")
skorch = pytest.importorskip("skorch")

from projects import SmallProject  # noqa: E402
from shoal.errors import ModelError, TrainingError  # noqa: E402
from shoal.lake import Lake  # noqa: E402
from shoal.models import Fleet, collecting_models, decode, encode, model  # noqa: E402
from shoal.models.code import RecordedCode  # noqa: E402
from shoal.models.codecs import template_modules  # noqa: E402
from shoal.models.deep import seeded, wrapped  # noqa: E402
from shoal.training import train  # noqa: E402
from shoal.workspace.reproduce import reproduce  # noqa: E402

pytestmark = pytest.mark.heavy
nn = torch.nn

FITS = {"max_epochs": 2, "train_split": None, "verbose": 0}


class Tied(nn.Module):
    """A module of a person's own: one weight is used twice, and a layer is found by attribute."""

    def __init__(self, width=4) -> None:
        super().__init__()
        self.width = width
        self.first = nn.Linear(3, width)
        self.second = nn.Linear(width, width, bias=False)
        self.third = nn.Linear(width, width, bias=False)
        self.third.weight = self.second.weight
        self.out = nn.Linear(width, 1)
        self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        return self.out(self.third(torch.relu(self.second(x)))) * self.scale


class Loop(nn.Module):
    """A module that is an estimator itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 1, dtype=torch.float64)

    def get_params(self, deep=True):
        return {}

    def set_params(self, **_):
        return self

    def fit(self, x, y):
        solved, *_ = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)
        with torch.no_grad():
            self.inner.weight.copy_(torch.tensor(solved[:-1]))
            self.inner.bias.copy_(torch.tensor(solved[-1:]))
        return self

    def predict(self, x):
        with torch.no_grad():
            return self.inner(torch.tensor(x))[:, 0].numpy()


class Holder(RegressorMixin, BaseEstimator):
    """An estimator that makes a module as it fits."""

    def fit(self, x, y):
        self.net_ = nn.Sequential(nn.LSTM(3, 2, num_layers=2), Last(), nn.Linear(2, 1))
        return self

    def predict(self, x):
        with torch.no_grad():
            rows = torch.tensor(x, dtype=torch.float32)[:, None]
            return self.net_(rows).reshape(-1).numpy().astype(float)


class Last(nn.Module):
    def forward(self, x):
        return x[0][:, -1]


def _sequential():
    layers = nn.Sequential(
        nn.Linear(3, 5), nn.BatchNorm1d(5), nn.PReLU(), nn.Dropout(0.2), nn.Linear(5, 1)
    )
    return skorch.NeuralNetRegressor(layers, optimizer=torch.optim.Adam, **FITS)


def _image():
    layers = nn.Sequential(
        nn.Unflatten(1, (1, 1, 3)), nn.Conv2d(1, 4, (1, 2)), nn.GELU(), nn.Flatten(),
        nn.LayerNorm(8), nn.Linear(8, 3),
    )  # fmt: skip
    return skorch.NeuralNetClassifier(layers, criterion=nn.CrossEntropyLoss, **FITS)


NETS = {
    "sequential": lambda: make_pipeline(StandardScaler(), _sequential()),
    "scaled target": lambda: TransformedTargetRegressor(
        _sequential(), transformer=StandardScaler()
    ),
    "class": lambda: skorch.NeuralNetRegressor(Tied, module__width=6, lr=0.1, **FITS),
    "double": lambda: skorch.NeuralNetRegressor(nn.Linear(3, 1, dtype=torch.float64), **FITS),
    "held out": lambda: skorch.NeuralNetRegressor(nn.Linear(3, 1), max_epochs=2, verbose=0),
    "images": _image,
    "softmax": lambda: skorch.NeuralNetClassifier(
        nn.Sequential(nn.Linear(3, 3), nn.Softmax(dim=-1)), iterator_train__shuffle=True, **FITS
    ),
    "binary": lambda: skorch.NeuralNetBinaryClassifier(nn.Linear(3, 1), **FITS),
    "loop": Loop,
    "holder": Holder,
}


def fitted(name: str, seed: int):
    random = np.random.default_rng(seed)
    features = random.normal(size=(90, 3))
    target = features @ random.normal(size=3)
    estimator = wrapped(seeded(NETS[name], seed), seed)
    if name in ("images", "softmax", "binary"):
        target = np.digitize(target, [0.0] if name == "binary" else [-0.7, 0.7])
    estimator.fit(features, target)
    return estimator, features


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**31))
def test_a_decoded_net_predicts_the_same_bits(name, seed) -> None:
    estimator, features = fitted(name, seed)
    encoded = encode(estimator)
    before = torch.random.get_rng_state()
    again = decode(encoded.template, encoded.state, template_modules(encoded.template))
    assert torch.equal(before, torch.random.get_rng_state())
    assert again.predict(features).tobytes() == estimator.predict(features).tobytes()
    if hasattr(estimator, "predict_proba"):
        both = again.predict_proba(features), estimator.predict_proba(features)
        assert both[0].tobytes() == both[1].tobytes()
    # The weights are the same for the same seed, and so are the bytes.
    assert encode(fitted(name, seed)[0]) == encoded


def test_modules_of_ones_own_need_trust_and_those_of_torch_need_none() -> None:
    estimator, _ = fitted("sequential", 0)
    encoded = encode(estimator)
    assert template_modules(encoded.template) == ()
    decode(encoded.template, encoded.state)
    tied = encode(fitted("class", 0)[0])
    with pytest.raises(ModelError, match="not allowed"):
        decode(tied.template, tied.state)
    # One copy of the shared weight is stored, and it is shared again.
    again = decode(tied.template, tied.state, [__name__]).net.module_
    assert again.second.weight is again.third.weight


@pytest.mark.parametrize(
    "path", ["torch.load", "torch.hub.load", "torch.compile", "torch.nn.functional.os", "os.system"]
)
def test_a_functions_node_reaches_operations_of_tensors_only(path) -> None:
    encoded = encode(fitted("sequential", 0)[0])
    evil = encoded.template.replace(
        '"attributes":{}', f'"attributes":{{"forward":["function","{path}"]}}', 1
    )
    assert evil != encoded.template
    with pytest.raises(ModelError, match="not allowed"):
        decode(evil, encoded.state)


@pytest.mark.parametrize("path", ["torch.nn.Module.register_buffer", "torch.serialization.load"])
def test_only_layers_and_losses_are_built(path) -> None:
    encoded = encode(fitted("sequential", 0)[0])
    evil = encoded.template.replace("torch.nn.modules.linear.Linear", path)
    with pytest.raises(ModelError):
        decode(evil, encoded.state)


def test_what_cannot_be_stored_is_named() -> None:
    net = nn.Linear(3, 1)
    net.register_forward_hook(lambda *_: None)
    hooked = wrapped(skorch.NeuralNetRegressor(net, **FITS), 0)
    hooked.fit(np.zeros((9, 3)), np.zeros(9))
    with pytest.raises(ModelError, match="has hooks"):
        encode(hooked)


def rows(count: int = 240) -> pa.Table:
    random = np.random.default_rng(0)
    x = random.normal(size=(count, 2))
    y = x[:, 0] - 2 * x[:, 1] + 0.1 * random.normal(size=count)
    keys = ["a", "b", "c"] * (count // 3)
    return pa.table({"k": keys, "t": range(count), "x": x[:, 0], "z": x[:, 1], "y": y})


MODEL = """
import shoal
import skorch
import torch
from helpers.layers import Wide

class Net(torch.nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.layers = torch.nn.Sequential(Wide(2, width), torch.nn.Linear(width, 1))

    def forward(self, x):
        return self.layers(x)

@shoal.model(table="gold.t", target="y", by=["k"], time="t", seed=3)
def net(width: int = 8):
    return skorch.NeuralNetRegressor(
        Net, module__width=width, lr=0.05, max_epochs=5, train_split=None, verbose=0
    )
"""

LAYERS = """
import torch

class Wide(torch.nn.Linear):
    def forward(self, x):
        return torch.tanh(super().forward(x))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = SmallProject(tmp_path_factory.mktemp("deep") / "p")
    for folder, name, text in (
        ("models", "net.py", MODEL), ("helpers", "layers.py", LAYERS), ("helpers", "__init__.py", "")
    ):  # fmt: skip
        (project.root / folder).mkdir(exist_ok=True)
        (project.root / folder / name).write_text(text)
    project.lake.table("gold.t").append(rows())
    with project.open() as space:
        (report,) = space.train()
        assert report.status == "trained", report.error
        assert not report.failures
        yield project, space, report


def test_a_fleet_of_nets_is_trained_scored_and_reproduced(project) -> None:
    _, space, _ = project
    members = space.lake.table("shoal.fleet_net").scan().collect()
    assert set(members["status"]) == {"ok"}
    assert (members["mae"] < members["baseline_mae"]).all()
    # The artifact's code is the project's own, so scoring in the project needs no trust.
    (scored,) = space.score()
    assert (scored.status, scored.rows) == ("scored", 240), scored.error
    found = reproduce(space, "net")
    assert set(found.verdicts) == {"identical"}, found
    # Nothing changed: nothing is fitted.
    (again,) = space.train()
    assert again.status == "current"


def test_stock_mlflow_runs_the_recorded_code_only_where_it_is_trusted(project, monkeypatch) -> None:
    import mlflow

    _, space, report = project
    mlflow.set_tracking_uri(space.tracker.uri)
    uri = f"models:/net/{report.version}"
    frame = rows(30).select(["k", "x", "z"]).to_pandas()
    with pytest.raises(ModelError, match="not allowed") as refused:
        mlflow.pyfunc.load_model(uri).predict(frame)
    assert "SHOAL_TRUSTED_MODULES=" in (refused.value.hint or "")
    folder = space.tracker.fleet_folder(space.tracker.resolve("net"))
    header = json.loads((folder / "fleet.json").read_text())
    assert set(header["code"]) == {"shoal_project.net", "helpers.layers", "helpers"}
    monkeypatch.setenv("SHOAL_TRUSTED_MODULES", ",".join(header["modules"]))
    found = mlflow.pyfunc.load_model(uri).predict(frame)
    known = space.tracker.fleet("net", known_code=header["code"]).predict(rows(30))
    assert found.tobytes() == known["prediction"].to_numpy().tobytes()


def test_code_that_was_changed_after_training_is_refused(project, tmp_path) -> None:
    import shutil

    _, space, _ = project
    folder = space.tracker.fleet_folder(space.tracker.resolve("net"))
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "code" / "helpers.layers.py").write_text(LAYERS + "\nEVIL = 1\n")
    with pytest.raises(ModelError, match="changed after training"):
        Fleet.open(tmp_path / "copy", modules=["shoal_project.net", "helpers.layers"])


def test_two_versions_of_the_same_module_stay_apart() -> None:
    old, new = (RecordedCode({"own.part": f"VALUE = {i}", "own": ""}) for i in (1, 2))
    assert [code.find("own.part", "VALUE") for code in (old, new, old)] == [1, 2, 1]
    with pytest.raises(ImportError):
        __import__("own.part")


def test_a_loss_that_is_no_number_is_said_with_what_to_do(tmp_path) -> None:
    lake = Lake(tmp_path)
    lake.table("gold.t").append(rows())
    with collecting_models() as found:
        model(table="gold.t", target="y", name="wild", features=["x", "z"])(
            lambda: skorch.NeuralNetRegressor(nn.Linear(2, 1), lr=1e6, max_epochs=99, **{
                k: v for k, v in FITS.items() if k != "max_epochs"
            })
        )  # fmt: skip
    with pytest.raises(TrainingError, match=r"the loss is (inf|nan) in epoch \d+: lower the learn"):
        train(found[0], lake)
    assert not lake.table("shoal.fleet_wild").exists()

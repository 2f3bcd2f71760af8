"""Small requests are answered at once, and to the bits of the usual way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleets import COLUMNS, ROW, SEGMENTS, trained_fleet
from servers import JSON, Answer, call
from shoal.models import Fleet
from shoal.serving import ServedModel, ServedModels, Tokens, create_app
from shoal.serving.quick import USUAL
from shoal.serving.tokens import new_token
from shoal.tracking.signature import input_types


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ServedModels:
    trained = trained_fleet(tmp_path_factory.mktemp("fleet"))
    fleet = Fleet.open(trained.artifact)
    model = ServedModel(name="delay", version=3, fleet=fleet, inputs=input_types(trained))
    return ServedModels([model])


@pytest.fixture(scope="module")
def app(models: ServedModels) -> Any:
    return create_app(models, default=None)


def post(app: Any, path: str, content: bytes, headers: Mapping[str, str] = JSON) -> Answer:
    return call(app, "POST", path, content, {**headers, "content-length": str(len(content))})


def usual(app: Any) -> Any:
    """The same application without its shortcut."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, USUAL: True}, receive, send)

    return answer


ANY = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3)
)
NUMBER = st.one_of(st.none(), st.integers(-5, 5), st.floats(allow_nan=False))
ROWS = st.fixed_dictionaries(
    {
        "carrier": st.sampled_from(["UA", "AA", "new", ""]),
        "dest": st.sampled_from([*(dest for _, dest in SEGMENTS), "x"]),
        "distance": st.integers(-(10**12), 10**12),
        "hour": NUMBER,
        "dep_delay": NUMBER,
        "holiday": st.booleans(),
    }
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.one_of(
        st.lists(ROWS, min_size=1, max_size=6), st.lists(ROWS, min_size=17, max_size=20)
    ),
    strange=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(COLUMNS), ANY), max_size=2),
    shape=st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs"]),
)
def test_both_ways_say_the_same_to_the_last_bit(app, rows, strange, shape) -> None:
    post(app, "/invocations", b"{}")  # builds the application
    for at, name, value in strange:
        rows[at % len(rows)][name] = value
    body: Any = rows
    if shape == "dataframe_split":
        body = {"columns": COLUMNS, "data": [[row[name] for name in COLUMNS] for row in rows]}
    elif shape == "inputs":
        body = {name: [row[name] for row in rows] for name in COLUMNS}
    content = json.dumps({shape: body}).encode()
    quick, slow = (post(a, "/invocations", content) for a in (app, usual(app)))
    assert (quick.status, quick.body) == (slow.status, slow.body)
    assert quick.headers.get("shoal-model") == slow.headers.get("shoal-model")


def test_it_is_taken_and_counted(app: Any, models: ServedModels, monkeypatch: Any) -> None:
    content = json.dumps({"dataframe_records": [ROW]}).encode()
    post(app, "/invocations", content)
    monkeypatch.setattr(type(next(iter(models)).fleet), "predict", None)  # the usual way's
    before = count(app)
    for path in ("/invocations", "/models/delay/invocations"):
        answer = post(app, path, content, {**JSON, "x-request-id": "mine"})
        assert answer.status == 200
        assert answer.headers["shoal-model"] == "delay/3"
        assert answer.headers["x-request-id"] == "mine"
    assert count(app) == before + 2


def count(app: Any) -> float:
    page = call(app, "GET", "/metrics").body.decode()
    lines = [line for line in page.splitlines() if line.startswith("shoal_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'status="200"' in line)


def test_tokens_are_asked_for_as_usual(models: ServedModels, tmp_path: Path) -> None:
    given = new_token(tmp_path / "tokens.json", "ann", ["score"])
    tokens = Tokens(tmp_path / "tokens.json")
    app = create_app(models, default=None, tokens=tokens)
    content = json.dumps({"dataframe_records": [ROW]}).encode()
    assert post(app, "/invocations", content).status == 401
    wrong = {**JSON, "authorization": "Bearer nobody"}
    assert post(app, "/invocations", content, wrong).status == 401
    right = {**JSON, "authorization": f"Bearer {given}"}
    assert post(app, "/invocations", content, right).status == 200


def test_one_row_has_the_bits_of_many(models: ServedModels) -> None:
    fleet = next(iter(models)).fleet
    random = np.random.default_rng(0)
    keys = [SEGMENTS[i] for i in random.integers(0, 3, 500)]
    features = random.normal(size=(500, 4))
    features[random.random((500, 4)) < 0.05] = np.nan
    features[random.random((500, 4)) < 0.02] = np.inf
    many = fleet.predict_few(keys, features.tolist())
    import pyarrow as pa

    table = pa.table(
        {
            "carrier": [k[0] for k in keys],
            "dest": [k[1] for k in keys],
            **{name: features[:, i] for i, name in enumerate(COLUMNS[2:])},
        }
    )
    assert many == fleet.predict(table)["prediction"].to_pylist()

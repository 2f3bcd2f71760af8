"""The Open Inference Protocol, version 2, over REST."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fleets import COLUMNS, CONTEXT, FEATURES, ROW, flights, trained_fleet
from servers import Answer, call
from shoal.serving import ServedModel, ServedModels, create_app
from shoal.tracking import Tracker
from shoal.tracking.signature import input_types

DATATYPES = {"carrier": "BYTES", "dest": "BYTES", "distance": "INT64", "hour": "FP64"}
DATATYPES |= {"dep_delay": "FP32", "holiday": "BOOL"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ServedModels:
    folder = tmp_path_factory.mktemp("registry")
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", None, "flights")
    tracker.record(trained_fleet(folder), CONTEXT)
    return ServedModels.load(tracker)


@pytest.fixture(scope="module")
def app(models: ServedModels) -> Any:
    return create_app(models, default=None)


def tensors(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": [len(values)], "datatype": DATATYPES[name], "data": values}
        for name, values in columns.items()
    ]


def infer(app: Any, content: object, path: str = "/v2/models/delay/infer") -> Answer:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return call(app, "POST", path, body)


def test_a_tensor_for_each_column_gives_the_fleets_numbers(app: Any, models: ServedModels) -> None:
    rows = flights(rows=20, seed=3).select(COLUMNS)
    model = models.get("delay")
    assert isinstance(model, ServedModel)
    expected = model.fleet.predict(rows).column("prediction").to_pylist()
    for shape in ([20], [20, 1]):
        given = [{**t, "shape": shape} for t in tensors(rows.to_pydict())]
        answer = infer(app, {"id": "q-1", "inputs": given, "outputs": [{"name": "prediction"}]})
        assert answer.status == 200, answer.body
        assert answer.json() == {
            "model_name": "delay",
            "model_version": "1",
            "id": "q-1",
            "outputs": [
                {"name": "prediction", "shape": [20], "datatype": "FP64", "data": expected}
            ],
        }
    assert infer(app, {"inputs": given}, "/v2/models/delay/versions/1/infer").status == 200


def test_what_the_model_and_the_server_say_of_themselves(app: Any) -> None:
    told = call(app, "GET", "/v2/models/delay").json()
    assert [(i["name"], i["datatype"], i["shape"]) for i in told["inputs"]] == [
        ("carrier", "BYTES", [-1]),
        ("dest", "BYTES", [-1]),
        ("distance", "INT64", [-1]),
        ("hour", "FP64", [-1]),
        ("dep_delay", "FP64", [-1]),
        ("holiday", "BOOL", [-1]),
    ]
    assert told["versions"] == ["1"]
    assert told["outputs"] == [{"name": "prediction", "datatype": "FP64", "shape": [-1]}]
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/delay/ready", "/v2"):
        assert call(app, "GET", path).status == 200
    assert call(app, "GET", "/v2/models/nothing/ready").status == 404


ONE = tensors({name: [value] for name, value in ROW.items()})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not valid JSON"),
        ({}, "expected an object with a list 'inputs'"),
        ({"inputs": [3]}, "Input 0 is a number"),
        ({"inputs": [{"shape": [1]}]}, "Input 0 has no name"),
        ({"inputs": [{**ONE[0], "shape": [-1]}]}, "has the shape [-1]"),
        ({"inputs": [{**ONE[0], "shape": [2]}]}, "1 values for the shape [2]"),
        ({"inputs": [{**ONE[0], "datatype": "TEXT"}]}, "datatype 'TEXT'; known: BOOL"),
        ({"inputs": [{**ONE[0], "data": [1]}]}, "is a number; BYTES holds text"),
        ({"inputs": [*ONE, ONE[0]]}, "'carrier' is there more than once"),
        ({"inputs": ONE[1:]}, "lacks the input 'carrier'"),
        ({"inputs": [*ONE[:-1], {**ONE[-1], "shape": [1, 1, 1]}]}, "expected [rows] or [rows, 1]"),
        (
            {"inputs": [*ONE[:-1], {**ONE[-1], "shape": [2], "data": [True, False]}]},
            "has 2 rows; those before it have 1",
        ),
        ({"inputs": ONE, "outputs": [{"name": "x"}]}, "no output 'x'"),
        ({"inputs": ONE, "id": 3}, "id is a number"),
        ({"inputs": [{k: v for k, v in ONE[0].items() if k != "data"}]}, "has no data"),
        (
            {"inputs": [{"name": "x", "shape": [1, 6], "datatype": "FP64", "data": [0.0] * 6}]},
            "a matrix, but the model's column 'carrier' holds no numbers",
        ),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(app: Any, content: object, words: str) -> None:
    answer = infer(app, content)
    assert answer.status == 400
    assert words in answer.json()["error"]


def test_a_model_of_numbers_takes_one_matrix(tmp_path: Path) -> None:
    trained = trained_fleet(tmp_path)
    from shoal.models import Fleet

    fleet = Fleet.open(trained.artifact)
    kinds = {n: k for n, k in input_types(trained).items() if n in FEATURES}
    # Without its keys every row goes to the global model.
    header = fleet.header
    object.__setattr__(header, "by", ())
    served = ServedModel(name="delay", version=1, fleet=fleet, inputs=kinds)
    app = create_app(ServedModels([served]), default=None)
    matrix = [[1400.0, 9.0, 2.5, 1.0], [200.0, 20.0, -3.0, 0.0]]
    whole = [[int(row[0]), *row[1:3], bool(row[3])] for row in matrix]
    flat = {"name": "x", "shape": [2, 4], "datatype": "FP64", "data": [v for r in whole for v in r]}
    nested = {**flat, "data": whole}
    assert infer(app, {"inputs": [flat]}).status == 400  # true is no number
    kinds["holiday"] = "double"
    numbers = [[int(r[0]), *r[1:]] for r in matrix]
    answers = [
        infer(app, {"inputs": [{**nested, "data": data}]}).json()["outputs"][0]["data"]
        for data in (numbers, [v for r in numbers for v in r])
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 2

"""The application's answers to right, wrong and arbitrary requests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestRegressor

from fleets import COLUMNS, ROW, SEGMENTS, flights, trained_fleet
from servers import JSON, Answer, call
from shoal.errors import RequestError, TrackingError
from shoal.models import FeatureField, Fleet, FleetHeader, encode, write_fleet
from shoal.serving import ServedModel, ServedModels, create_app
from shoal.tracking.signature import input_types


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    trained = trained_fleet(tmp_path_factory.mktemp("fleet"))
    fleet = Fleet.open(trained.artifact)
    return ServedModel(name="delay", version=3, fleet=fleet, inputs=input_types(trained))


@pytest.fixture(scope="module")
def app(model: ServedModel) -> Any:
    return create_app(ServedModels([model]), default=None, max_body=100_000)


def post(app: Any, body: Any, headers: Mapping[str, str] = JSON) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return call(app, "POST", "/invocations", content, headers)


def refusal(answer: Answer, status: int = 400) -> str:
    """The message of an answer that must be an error in MLflow's shape."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    content = answer.json()
    assert set(content) == {"error_code", "message"}
    assert isinstance(content["error_code"], str)
    message = content["message"]
    assert isinstance(message, str)
    return message


def test_all_shapes_give_the_fleets_numbers(app: Any, model: ServedModel) -> None:
    rows = flights(rows=30, seed=9).select(COLUMNS)
    records = rows.to_pylist()
    expected = model.fleet.predict(rows).column("prediction").to_pylist()
    for body in (
        {"dataframe_split": {"columns": COLUMNS, "data": [list(r.values()) for r in records]}},
        {"dataframe_records": records},
        {"instances": records},
        {"inputs": rows.to_pydict()},
        {"inputs": records, "params": {"ignored": 1}},
    ):
        answer = post(app, body)
        assert answer.status == 200
        assert answer.headers["shoal-model"] == "delay/3"
        assert answer.json() == {"predictions": expected}
    csv = rows.to_pandas().to_csv(index=False).encode()
    assert post(app, csv, {"content-type": "text/csv"}).json() == {"predictions": expected}


def test_intervals_come_when_they_are_asked_for(app: Any, model: ServedModel) -> None:
    rows = flights(rows=9, seed=9).select(COLUMNS)
    body = {"dataframe_records": rows.to_pylist(), "params": {"interval": True}}
    expected = model.fleet.predict(rows, interval=True).to_pylist()
    assert set(expected[0]) == {"prediction", "prediction_lower", "prediction_upper"}
    assert post(app, body).json() == {"predictions": expected}
    for params, said in (({"interval": 1}, "a number; expected a boolean"), ([1], "a list")):
        assert said in refusal(post(app, body | {"params": params}))


def test_missing_values_give_the_fleets_numbers(app: Any, model: ServedModel) -> None:
    rows = flights(rows=4, seed=9).select(COLUMNS)
    for name in ("carrier", "hour", "dep_delay", "holiday"):
        at = rows.column_names.index(name)
        gaps = pa.array([None] * 4, rows.schema.field(at).type)
        some = rows.set_column(at, name, gaps)
        expected = {"predictions": model.fleet.predict(some).column("prediction").to_pylist()}
        assert post(app, {"dataframe_records": some.to_pylist()}).json() == expected
        csv = some.to_pandas().to_csv(index=False).encode()
        assert post(app, csv, {"content-type": "text/csv"}).json() == expected


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "body is empty"),
        (b"  \n", "body is empty"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"instances": [{"hour": NaN}]}', "NaN and Infinity are not JSON: send null"),
        (b"[]", "a list; expected a JSON object with exactly one of dataframe_split"),
        (b"null", "null; expected"),
        (b"{}", "the fields none"),
        ({"columns": COLUMNS, "data": []}, "the fields 'columns', 'data'"),
        ({"inputs": {}, "instances": []}, "both instances and inputs"),
        ({"dataframe_split": 3}, "dataframe_split is a number"),
        ({"dataframe_split": {"columns": COLUMNS}}, "expected 'columns', 'data'"),
        ({"dataframe_split": {"columns": "x", "data": []}}, "'columns', a list of column names"),
        ({"dataframe_split": {"columns": COLUMNS, "data": 3}}, "a number as 'data'"),
        ({"dataframe_split": {"columns": COLUMNS, "data": [[1]]}}, "Row 0 of dataframe_split is 1"),
        ({"dataframe_split": {"columns": COLUMNS, "data": [3]}}, "Row 0 of dataframe_split is a n"),
        ({"dataframe_split": {"columns": ["a", "a"], "data": []}}, "'a' more than once"),
        ({"dataframe_split": {"columns": ["a"], "data": []}}, "lacks the columns 'carrier', 'dest"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1]], "index": []}}, "0 entries for 1 "),
        ({"dataframe_records": ROW}, "dataframe_records is an object"),
        ({"dataframe_records": [ROW, 3]}, "Row 1 of dataframe_records is a number"),
        ({"dataframe_records": [{"carrier": "UA"}]}, "found 'carrier'; expected carrier, dest"),
        ({"instances": [ROW, {"carrier": "UA"}]}, "Row 1 of instances lacks 'dest'"),
        ({"inputs": "x"}, "inputs is text"),
        ({"inputs": ROW | {"hour": [1], "distance": [1, 2]}}, "'hour' has 1 values, 'distance' "),
        ({"dataframe_records": [ROW | {"distance": "far"}]}, "Row 0, column 'distance': found 'fa"),
        ({"dataframe_records": [ROW | {"distance": 1.5}]}, "found 1.5; expected a whole number"),
        ({"dataframe_records": [ROW | {"distance": None}]}, "found null; expected a whole number"),
        ({"dataframe_records": [ROW, ROW | {"hour": []}]}, "Row 1, column 'hour': found a list; "),
        ({"dataframe_records": [ROW | {"holiday": 2}]}, "found 2; expected true, false or null"),
        ({"dataframe_records": [ROW | {"dest": {"a": 1}}]}, "found an object; expected text"),
        ({"dataframe_records": [ROW | {"dest": 1.5}]}, "found 1.5; expected text"),
    ],
)
def test_a_wrong_body_is_told_what_is_wrong(app: Any, body: Any, words: str) -> None:
    assert words in refusal(post(app, body))


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/json; charset=latin-1", "application/json; a=b", "multipart/x"],
)
def test_other_content_types_are_415(app: Any, kind: str) -> None:
    refusal(post(app, {"dataframe_records": [ROW]}, {"content-type": kind}), 415)


def test_a_compressed_body_is_415(app: Any) -> None:
    answer = call(app, "POST", "/invocations", b"{}", {**JSON, "content-encoding": "gzip"})
    assert (answer.status, b"compressed" in answer.body) == (415, True)


def test_content_type_may_be_missing_or_name_utf_8(app: Any) -> None:
    refusal(post(app, {"dataframe_records": [ROW]}, {}), 415)
    for kind in ("application/json; charset=UTF-8", 'Application/JSON;charset="utf-8"'):
        assert post(app, {"dataframe_records": [ROW]}, {"content-type": kind}).status == 200


def test_a_large_body_is_413(app: Any) -> None:
    refusal(post(app, b"[" * 100_001), 413)
    refusal(post(app, b"[" * 10_000_000), 413)


def test_paths_and_methods(app: Any) -> None:
    refusal(call(app, "POST", "/models/delai/invocations", b"{}"), 404)
    refusal(call(app, "POST", "/models/../../etc/passwd/invocations", b"{}"), 404)
    refusal(call(app, "GET", "/nothing"), 404)
    refusal(call(app, "GET", "/invocations"), 405)
    for path in ("/ping", "/health"):
        answer = call(app, "GET", path)
        assert (answer.status, answer.body) == (200, b"")


def test_no_rows_give_no_predictions(app: Any) -> None:
    body = {"dataframe_split": {"columns": COLUMNS, "data": []}}
    assert post(app, body).json() == {"predictions": []}


def one_feature(folder: Path, *, template: str = "t") -> ServedModel:
    """A forest without segments that takes ``x``, a double."""
    forest = RandomForestRegressor(n_estimators=1).fit([[1.0], [2.0]], [1.0, 2.0])
    encoded = encode(forest)
    header = FleetHeader(
        model="one",
        fleet_version=1,
        task="regression",
        by=(),
        features=(FeatureField(name="x", dtype="double"),),
        target="y",
        levels=((),),
        templates={"t": encoded.template},
        table="gold.t",
        table_version=0,
    )
    member = {"segment": "[]", "level": 0, "status": "ok", "model_used": "[]", "reason": ""}
    rows = [member | {"template": template, "state": encoded.state}]
    write_fleet(folder, header, pa.Table.from_pylist(rows))
    fleet = Fleet.open(folder)
    return ServedModel(name="one", version=1, fleet=fleet, inputs={"x": "double"})


def test_an_artifact_that_is_broken_is_the_servers_fault(tmp_path: Path) -> None:
    served = one_feature(tmp_path, template="gone")
    answer = post(create_app(ServedModels([served]), default=None), {"inputs": {"x": [1.0]}})
    assert refusal(answer, 500) == "The server failed; its log says why."


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_values_that_an_estimator_refuses_are_400(tmp_path: Path) -> None:
    served = one_feature(tmp_path)
    fleet = served.fleet
    app = create_app(ServedModels([served]), default="one")
    # With one input column MLflow takes a plain list for it.
    assert post(app, {"instances": [1.0]}).json()["predictions"] == [fleet_value(fleet, 1.0)]
    message = refusal(post(app, {"instances": [1e300]}))  # too large for the tree's float32
    assert "The model cannot predict these values: ValueError" in message


def fleet_value(fleet: Fleet, x: float) -> object:
    return fleet.predict(pa.table({"x": [x]})).column("prediction")[0].as_py()


def test_choosing_what_to_serve(model: ServedModel) -> None:
    with pytest.raises(TrackingError, match="no model to serve"):
        ServedModels([])
    with pytest.raises(TrackingError, match="Two versions of 'delay'"):
        ServedModels([model, model])
    with pytest.raises(RequestError, match="Did you mean 'delay'"):
        create_app(ServedModels([model]), default="delai")


# Numbers beyond 64 bits, deep nesting and lone surrogates are JSON to Python's encoder.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*COLUMNS, "x"]) | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=12,
)
ROWS = st.fixed_dictionaries(
    {
        "carrier": st.sampled_from([s[0] for s in SEGMENTS]) | VALUES,
        "dest": st.sampled_from([s[1] for s in SEGMENTS]) | VALUES,
        "distance": st.integers() | VALUES,
        "hour": st.floats() | VALUES,
        "dep_delay": st.floats() | VALUES,
        "holiday": st.booleans() | VALUES,
    }
)
TABLES = (
    st.lists(ROWS | VALUES, max_size=3)
    | ROWS
    | st.fixed_dictionaries({name: st.lists(VALUES | st.floats(), max_size=2) for name in COLUMNS})
    | st.fixed_dictionaries(
        {
            "columns": st.just(COLUMNS) | st.lists(st.sampled_from(COLUMNS)) | VALUES,
            "data": st.lists(st.lists(VALUES, min_size=6, max_size=6), max_size=2) | VALUES,
        },
        optional={"index": VALUES},
    )
    | VALUES
)
SHAPES = ["dataframe_split", "dataframe_records", "instances", "inputs"]
BODIES = st.dictionaries(st.sampled_from(SHAPES), TABLES, min_size=1, max_size=1) | VALUES
FAST = settings(max_examples=300, deadline=None)


def answered(app: Any, body: bytes, headers: Mapping[str, str] = JSON) -> None:
    answer = post(app, body, headers)
    if answer.status != 200:
        assert refusal(answer, answer.status)
        assert 400 <= answer.status < 500
    else:
        predictions = answer.json()["predictions"]
        assert all(value is None or isinstance(value, float) for value in predictions)


@FAST
@given(BODIES)
@example({"instances": [ROW | {"distance": 10**400}]})
@example({"instances": [ROW | {"hour": 10**400}]})
@example({"instances": [ROW | {"dep_delay": 1.7e308}]})
@example({"instances": [ROW | {"dest": "\ud800"}]})
@example({"dataframe_records": [{"\ud800": 1}]})
def test_any_json_is_answered(app: Any, body: Any) -> None:
    answered(app, json.dumps(body).encode())


@FAST
@given(st.binary(max_size=200))
@example(b"[" * 50_000)
@example(b'{"inputs":' * 9_000)
@example(b'{"inputs": {"hour": ' + b"[" * 1_000 + b"]" * 1_000 + b"}}")
@example(b'{"inputs": 1' + b"0" * 50_000 + b"}")
@example(b"\x00")
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_are_answered(app: Any, body: bytes) -> None:
    answered(app, body)


@FAST
@given(st.text(max_size=200).map(str.encode) | st.binary(max_size=100), st.booleans())
@example(b'"', False)
@example(b"a,a\n1,2\n", True)
@example(b"UA\x00,IAH\n", True)
def test_any_csv_is_answered(app: Any, body: bytes, with_header: bool) -> None:
    head = ",".join(COLUMNS).encode() + b"\n" if with_header else b""
    answered(app, head + body, {"content-type": "text/csv"})


@FAST
@given(st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=60))
def test_any_content_type_is_answered(app: Any, kind: str) -> None:
    answered(app, b"{}", {"content-type": kind})


def test_importing_is_light() -> None:
    script = (
        "import sys, shoal.serving, shoal.tracking;"
        "heavy = {'mlflow', 'starlette', 'uvicorn', 'pandas', 'polars', 'sklearn', 'orjson'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"

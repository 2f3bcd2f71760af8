import datetime as dt

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.tree import DecisionTreeRegressor

from shoal.errors import ModelError, RequestError
from shoal.models import FeatureField, Fleet, FleetHeader, encode, write_fleet
from shoal.models.pyfunc import _load_pyfunc
from shoal.models.segments import key_texts, segment_key, segment_keys

KEYS = [("UA", "IAH"), ("UA", "ORD"), ("AA", None), ('q"u', "é\n")]


def line(slope: float, estimator=Ridge):
    features = np.column_stack([np.arange(20.0), np.ones(20)])
    model = estimator(alpha=1e-9) if estimator is Ridge else estimator()
    return model.fit(features, slope * features[:, 0])


def make_fleet(folder, **changes):
    members, templates = [], {}

    def add(key, level, estimator, used=None, status="ok"):
        encoded = encode(estimator) if estimator is not None else None
        if encoded:
            templates["t" + str(hash(encoded.template))] = encoded.template
        members.append(
            {
                "segment": segment_key(key),
                "level": level,
                "status": status,
                "model_used": segment_key(key) if used is None else used,
                "reason": None if estimator is not None else "12 training rows",
                "template": "t" + str(hash(encoded.template)) if encoded else None,
                "state": encoded.state if encoded else None,
            }
        )

    for i, key in enumerate(KEYS):
        add(key, 0, line(i + 1.0))
    add(("UA", "SFO"), 0, None, used='["UA"]', status="fallback")
    add(("UA",), 1, line(100.0))
    add((), 2, line(1000.0))
    fields = {
        "model": "delay",
        "fleet_version": 1,
        "task": "regression",
        "by": ("carrier", "dest"),
        "features": (FeatureField(name="x", dtype="double"), FeatureField(name="z", dtype="bool")),
        "target": "y",
        "levels": (("carrier", "dest"), ("carrier",), ()),
        "templates": templates,
        "table": "gold.t",
        "table_version": 3,
    } | changes
    write_fleet(folder, FleetHeader(**fields), pa.Table.from_pylist(members))
    return Fleet.open(folder)


def rows(keys, x=2.0):
    count = len(keys)
    return pa.table(
        {
            "z": pa.array([True] * count),
            "dest": pa.array([k[1] for k in keys], pa.string()),
            "carrier": pa.array([k[0] for k in keys], pa.string()),
            "x": np.full(count, x) if np.isscalar(x) else x,
        }
    )


def test_rows_go_to_their_segment_and_unseen_ones_up(tmp_path) -> None:
    fleet = make_fleet(tmp_path)
    asked = [*KEYS, ("UA", "SFO"), ("UA", "new"), ("XX", "new"), (None, None)]
    found = fleet.predict(rows(asked), explain=True)
    slopes = np.array([1, 2, 3, 4, 100, 100, 1000, 1000])
    np.testing.assert_allclose(found["prediction"].to_numpy(), slopes * 2.0, rtol=1e-6)
    assert found["model_used"].to_pylist()[4:] == ['["UA"]', '["UA"]', "[]", "[]"]
    assert found["fallback"].to_pylist() == [False] * 4 + [True] * 4
    assert found["segment"].to_pylist()[2] == '["AA",null]'
    assert fleet.segments == 5
    assert fleet.member('["UA","SFO"]')["reason"] == "12 training rows"


@settings(max_examples=40, deadline=None)
@given(
    picks=st.lists(st.tuples(st.integers(0, 6), st.floats(-1e6, 1e6)), max_size=60),
    memory=st.sampled_from([0, 10_000, 2**20]),
)
def test_order_is_kept_whatever_the_order_of_segments(tmp_path_factory, picks, memory) -> None:
    folder = tmp_path_factory.mktemp("fleet")
    make_fleet(folder)
    fleet = Fleet.open(folder, memory=memory)
    keys = [*KEYS, ("UA", "SFO"), ("UA", "x"), ("y", "z")]
    asked = rows([keys[i] for i, _ in picks], x=np.array([x for _, x in picks]))
    found = fleet.predict(asked)["prediction"].to_pylist()
    for i, ((pick, x), prediction) in enumerate(zip(picks, found, strict=True)):
        alone = fleet.estimator(segment_key(keys[pick])).predict([[x, 1.0]])[0]
        assert prediction == pytest.approx(alone, rel=1e-12, abs=1e-12), i


def test_missing_values_cost_their_row_only(tmp_path) -> None:
    fleet = make_fleet(tmp_path)
    asked = rows([KEYS[0]] * 4, x=np.array([1.0, np.nan, np.inf, 2.0]))
    found = fleet.predict(asked)["prediction"]
    assert found.is_valid().to_pylist() == [True, False, False, True]


def test_estimators_that_take_nan_get_it(tmp_path) -> None:
    encoded = encode(line(1.0, DecisionTreeRegressor))
    header = FleetHeader(
        model="m", fleet_version=1, task="regression", by=(), target="y", levels=((),),
        features=(FeatureField(name="x", dtype="double"), FeatureField(name="z", dtype="double")),
        templates={"a": encoded.template}, table="t", table_version=0,
    )  # fmt: skip
    member = {
        "segment": "[]", "level": 0, "status": "ok", "model_used": "[]", "reason": None,
        "template": "a", "state": encoded.state,
    }  # fmt: skip
    write_fleet(tmp_path, header, pa.Table.from_pylist([member]).cast(_members()))
    found = Fleet.open(tmp_path).predict(pa.table({"x": [None, 2.0], "z": [1, 1]}))
    assert found["prediction"].null_count == 0


def _members():
    from shoal.models.artifact import MEMBER_SCHEMA

    return MEMBER_SCHEMA.remove(MEMBER_SCHEMA.get_field_index("interval"))


def test_classes_come_back_as_labels(tmp_path) -> None:
    features = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [3.0, 1.0]])
    encoded = encode(LogisticRegression(C=1e6).fit(features, [0, 0, 1, 1]))
    header = FleetHeader(
        model="m", fleet_version=1, task="classification", by=(), target="y", levels=((),),
        features=(FeatureField(name="x", dtype="double"), FeatureField(name="z", dtype="double")),
        templates={"a": encoded.template}, table="t", table_version=0, classes=("late", "on time"),
    )  # fmt: skip
    member = {
        "segment": "[]", "level": 0, "status": "ok", "model_used": "[]", "reason": None,
        "template": "a", "state": encoded.state,
    }  # fmt: skip
    write_fleet(tmp_path, header, pa.Table.from_pylist([member]).cast(_members()))
    asked = pa.table({"x": [0.0, 3.0, None], "z": [1.0, 1.0, 1.0]})
    assert Fleet.open(tmp_path).predict(asked)["prediction"].to_pylist() == [
        "late",
        "on time",
        None,
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns("x"), "feature column 'x' is missing"),
        (lambda t: t.drop_columns("dest"), "column 'dest' is missing"),
        (lambda t: t.set_column(3, "x", pa.array([None, "far"])), "row 1, column 'x': found 'far'"),
        (lambda t: t.set_column(1, "dest", pa.array([0.5, 1.0])), "segment key.*found 0.5"),
        (lambda t: t.set_column(1, "dest", pa.array([1.0, np.inf])), "segment key.*found inf"),
        (lambda t: t.set_column(1, "dest", pa.array([1e300, 1.0])), r"segment key.*found 1e\+300"),
        (lambda t: t.append_column("x", t["x"]), "column 'x' is there 2 times"),
        (lambda t: t.append_column("dest", t["dest"]), "column 'dest' is there 2 times"),
    ],
)
def test_wrong_requests_name_the_row_and_column(tmp_path, change, message) -> None:
    fleet = make_fleet(tmp_path)
    with pytest.raises(RequestError, match=message):
        fleet.predict(change(rows(KEYS[:2])))


def test_no_rows_give_no_predictions(tmp_path) -> None:
    found = make_fleet(tmp_path).predict(rows([]), explain=True)
    assert found.num_rows == 0


def test_a_folder_that_is_no_fleet_is_a_model_error(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"fleet\.json is missing"):
        Fleet.open(tmp_path)
    make_fleet(tmp_path)
    (tmp_path / "members.arrow").write_bytes(b"junk")
    with pytest.raises(ModelError, match="cannot be read"):
        Fleet.open(tmp_path)
    (tmp_path / "fleet.json").write_text('{"format": 99}')
    with pytest.raises(ModelError, match="format 99"):
        Fleet.open(tmp_path)


def test_keys_of_any_type_are_one_text() -> None:
    whole = [pa.array([7, None]), pa.array([7, None], pa.int8()), pa.array([7.0, np.nan])]
    assert {tuple(key_texts(a).to_pylist()) for a in whole} == {("7", None)}
    day = dt.date(2026, 1, 2)
    stamp = dt.datetime(2026, 1, 2)
    assert key_texts(pa.array([day])).to_pylist() == ["2026-01-02"]
    assert key_texts(pa.array([stamp])).to_pylist() == ["2026-01-02"]
    late = pa.array([stamp.replace(hour=3, microsecond=5)])
    assert key_texts(late).to_pylist() == ["2026-01-02 03:00:00.000005"]
    assert key_texts(pa.array(["a"]).dictionary_encode()).to_pylist() == ["a"]
    assert key_texts(pa.array([True])).to_pylist() == ["true"]


def test_pyfunc_takes_what_mlflow_gives(tmp_path) -> None:
    fleet = make_fleet(tmp_path)
    table = rows(KEYS)
    expected = fleet.predict(table)["prediction"].to_numpy()
    model = _load_pyfunc(str(tmp_path))
    frame = table.to_pandas()
    columns = {n: frame[n].to_numpy() for n in frame}
    array = frame[["carrier", "dest", "x", "z"]].to_numpy(dtype=object)
    for given_ in (frame, columns, array, pd.DataFrame(frame).sample(frac=1).sort_index()):
        found = model.predict(given_)
        assert isinstance(found, np.ndarray)
        assert found.tolist() == expected.tolist()
    with pytest.raises(RequestError, match=r"shape \(4, 3\)"):
        model.predict(array[:, :3])


@given(st.lists(st.tuples(st.none() | st.text(), st.none() | st.text()), max_size=20))
def test_keys_of_many_segments_are_those_of_each(texts) -> None:
    columns = [pa.array([text[i] for text in texts], pa.string()) for i in range(2)]
    assert segment_keys(columns).to_pylist() == [segment_key(text) for text in texts]

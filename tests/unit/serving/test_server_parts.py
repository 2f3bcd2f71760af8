"""Tokens, canaries, the inference log, lookups, limits and what the server tells of itself."""

from __future__ import annotations

import asyncio
import json
import stat
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fleets import COLUMNS, CONTEXT, ROW, flights, trained_fleet
from servers import JSON, Answer, call
from shoal.errors import ProjectError, RequestError, TrackingError
from shoal.lake import Lake
from shoal.serving import (
    TAG,
    InferenceLog,
    Lookup,
    ServedModels,
    Tokens,
    Traffic,
    create_app,
    new_token,
)
from shoal.serving.answers import Refused
from shoal.serving.gate import Gate
from shoal.tracking import Tracker


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("registry")
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", None, "flights")
    tracker.record(trained_fleet(folder), CONTEXT)
    tracker.record(trained_fleet(folder, seed=1), CONTEXT, alias="challenger")
    return tracker


@pytest.fixture
def tracker(registry: Tracker) -> Tracker:
    """Version 1 is the champion and 2 the challenger, whatever a test before did."""
    registry.set_alias("delay", "champion", 1)
    registry.set_alias("delay", "challenger", 2)
    registry.set_tag("delay", TAG, None)
    return registry


@pytest.fixture
def models(tracker: Tracker) -> ServedModels:
    return ServedModels.load(tracker)


def ask(app: Any, rows: list[dict[str, Any]], path: str = "", **headers: str) -> Answer:
    body = json.dumps({"dataframe_records": rows}).encode()
    return call(app, "POST", f"{path}/invocations", body, JSON | headers)


# Versions ----------------------------------------------------------------------------------------


def test_paths_name_aliases_and_versions(models: ServedModels) -> None:
    app = create_app(models, default=None)
    for path, version in {
        "": 1,
        "/models/delay": 1,
        "/models/delay@champion": 1,
        "/models/delay@challenger": 2,
        "/models/delay/2": 2,
    }.items():
        answer = ask(app, [ROW], path)
        assert answer.headers["shoal-model"] == f"delay/{version}", path
    for path in ("/models/delay@none", "/models/delay/9"):
        answer = ask(app, [ROW], path)
        assert answer.status == 404
        assert "Aliases: challenger, champion; versions: 1, 2." in answer.json()["message"]


def test_a_promotion_is_taken_up_between_two_requests(
    models: ServedModels, tracker: Tracker
) -> None:
    app = create_app(models, default=None)
    held = models.get("delay")
    tracker.set_alias("delay", "champion", 2)
    assert ask(app, [ROW]).headers["shoal-model"] == "delay/1"
    assert models.refresh() == ["delay: version 1 -> 2"]
    assert ask(app, [ROW]).headers["shoal-model"] == "delay/2"
    assert models.refresh() == []
    assert held is not None
    assert held.fleet.predict(flights(rows=2)).num_rows == 2  # a request that began before
    tracker.set_alias("delay", "champion", 1)
    assert models.refresh() == ["delay: version 2 -> 1"]


def test_what_cannot_be_opened_leaves_the_version_in_use(
    models: ServedModels, tracker: Tracker, tmp_path: Path
) -> None:
    app = create_app(models, default=None)
    third = tracker.record(trained_fleet(tmp_path, seed=2), CONTEXT, alias=None)
    folder, _ = tracker._model_folder(third)
    for file in folder.rglob("fleet.json"):
        file.write_text("{")
    tracker.set_alias("delay", "champion", 3)
    assert models.refresh() == []
    assert models.failures == 1
    assert ask(app, [ROW]).headers["shoal-model"] == "delay/1"


def test_a_pinned_version_stays(tracker: Tracker) -> None:
    models = ServedModels.load(tracker, ["delay/2"])
    tracker.set_alias("delay", "challenger", 1)
    models.refresh()
    assert [m.version for m in models] == [2]


# Traffic -----------------------------------------------------------------------------------------


def test_a_canary_takes_its_share_of_requests(models: ServedModels, tracker: Tracker) -> None:
    app = create_app(models, default=None)
    tracker.set_tag("delay", TAG, Traffic(alias="challenger", percent=30).to_tag())
    models.refresh()
    versions = [
        ask(app, [ROW], **{"x-request-id": f"r{i}"}).headers["shoal-model"] for i in range(200)
    ]
    again = [
        ask(app, [ROW], **{"x-request-id": f"r{i}"}).headers["shoal-model"] for i in range(200)
    ]
    assert versions == again  # the same request goes the same way
    assert 30 <= versions.count("delay/2") <= 90
    assert ask(app, [ROW], "/models/delay@champion").headers["shoal-model"] == "delay/1"
    tracker.set_tag("delay", TAG, None)
    models.refresh()
    assert {ask(app, [ROW]).headers["shoal-model"] for _ in range(50)} == {"delay/1"}


def test_a_canary_takes_segments_and_rows_keep_their_order(
    models: ServedModels, tracker: Tracker
) -> None:
    app = create_app(models, default=None)
    rule = Traffic(alias="challenger", segments=frozenset(['["UA","IAH"]']))
    tracker.set_tag("delay", TAG, rule.to_tag())
    models.refresh()
    rows = flights(rows=40, seed=5).select(COLUMNS)
    both = [models.get("delay"), models.get("delay", alias="challenger")]
    old, new = (m.fleet.predict(rows).column("prediction").to_pylist() for m in both if m)
    theirs = [r["carrier"] == "UA" and r["dest"] == "IAH" for r in rows.to_pylist()]
    expected = [n if mine else o for n, o, mine in zip(new, old, theirs, strict=True)]
    answer = ask(app, rows.to_pylist())
    assert answer.json() == {"predictions": expected}
    assert answer.headers["shoal-model"] == "delay/1, delay/2"
    assert any(theirs)
    assert not all(theirs)


def test_a_rule_that_gives_nothing_is_refused() -> None:
    with pytest.raises(TrackingError, match="would get nothing"):
        Traffic(alias="challenger")
    with pytest.raises(TrackingError, match="expected 0 to 100"):
        Traffic(alias="challenger", percent=101)
    assert Traffic.from_tags({TAG: "nonsense"}) is None
    assert Traffic.from_tags({}) is None


# The log -----------------------------------------------------------------------------------------


def logged(lake: Lake) -> list[dict[str, Any]]:
    rows = lake.table("shoal.inferences_delay").scan().collect().to_dicts()
    return sorted(rows, key=lambda row: (row["request_id"], row["role"], row["row"]))


def test_predictions_are_logged_with_what_they_were_asked(
    models: ServedModels, tmp_path: Path
) -> None:
    lake = Lake(tmp_path / "lake")
    with InferenceLog(lake, seconds=60) as log:
        app = create_app(models, default=None, log=log)
        rows = flights(rows=3, seed=5).select(COLUMNS)
        answer = ask(app, rows.to_pylist(), **{"x-request-id": "a"})
        ask(app, [ROW | {"dest": "never seen"}], **{"x-request-id": "b"})
        assert ask(app, [{"carrier": 1}]).status == 400
        assert log.waiting == 4
    found = logged(lake)
    assert [(r["request_id"], r["row"]) for r in found] == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]
    assert [r["prediction"] for r in found[:3]] == answer.json()["predictions"]
    assert [r["inputs"] for r in found[:3]] == rows.to_pylist()
    assert found[3]["model_used"] == '["UA"]'
    assert {(r["model_version"], r["role"]) for r in found} == {(1, "champion")}
    assert lake.table("shoal.inferences_delay").version() == 1  # made, and one commit


def test_a_shadow_is_logged_and_not_answered(
    models: ServedModels, tracker: Tracker, tmp_path: Path
) -> None:
    tracker.set_tag("delay", TAG, Traffic(alias="challenger", percent=100, shadow=True).to_tag())
    models.refresh()
    lake = Lake(tmp_path / "lake")
    with InferenceLog(lake, seconds=60) as log:
        app = create_app(models, default=None, log=log)
        answer = ask(app, [ROW], **{"x-request-id": "a"})
        assert answer.headers["shoal-model"] == "delay/1"
    roles = [(r["role"], r["model_version"]) for r in logged(lake)]
    assert roles == [("champion", 1), ("shadow", 2)]


@pytest.mark.parametrize("full", ["refuse", "drop"])
def test_a_full_log_refuses_or_counts_what_it_loses(
    models: ServedModels, tmp_path: Path, full: Any
) -> None:
    lake = Lake(tmp_path / "lake")
    with InferenceLog(lake, seconds=60, room=1, full=full) as log:
        app = create_app(models, default=None, log=log)
        assert ask(app, [ROW]).status == 200
        second = ask(app, [ROW])
        if full == "refuse":
            assert second.status == 503
            assert second.headers["retry-after"] == "2"
            assert log.dropped == 0
        else:
            assert second.status == 200
            assert log.dropped == 1
    assert len(logged(lake)) == 1


# Lookup ------------------------------------------------------------------------------------------


@pytest.fixture
def features(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "features")
    lake.table("gold.routes").append(routes(1))
    return lake


def routes(day: int) -> pa.Table:
    return pa.table(
        {
            "carrier": ["UA", "AA"],
            "dest": ["IAH", "MIA"],
            "day": pa.array([day, day], pa.int32()),
            "distance": pa.array([1400 + day, 1000 + day], pa.int32()),
            "hour": [9.0, 10.0],
            "holiday": [True, False],
        }
    )


def test_a_request_may_bring_its_keys_only(models: ServedModels, features: Lake) -> None:
    lookup = Lookup(features.table("gold.routes"), ["carrier", "dest"], time="day")
    app = create_app(models, default=None, lookups={"delay": lookup})
    asked = [{"carrier": c, "dest": d, "dep_delay": 2.5} for c, d in [("AA", "MIA"), ("UA", "IAH")]]
    plain = create_app(models, default=None)

    def whole(day: int) -> Answer:
        rows = [
            {**asked[0], "distance": 1000 + day, "hour": 10.0, "holiday": False},
            {**asked[1], "distance": 1400 + day, "hour": 9.0, "holiday": True},
        ]
        return ask(plain, rows)

    assert ask(app, asked).json() == whole(1).json()
    features.table("gold.routes").append(routes(3))
    features.table("gold.routes").append(routes(2))
    assert lookup.refresh()
    assert not lookup.refresh()
    assert ask(app, asked).json() == whole(3).json()
    assert ask(app, [{"carrier": "UA", "dest": "nowhere", "dep_delay": 1.0}]).status == 200
    told = ask(app, [{"carrier": "UA", "dest": "IAH"}])
    assert told.status == 400
    assert "'dep_delay'" in told.json()["message"]


def test_a_lookup_needs_columns_that_exist(features: Lake) -> None:
    with pytest.raises(RequestError, match="no column 'carier'") as caught:
        Lookup(features.table("gold.routes"), ["carier"])
    assert caught.value.hint == "Did you mean 'carrier'?"


# Tokens ------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def test_tokens_open_what_their_scopes_say(models: ServedModels, path: Path) -> None:
    score, read = new_token(path, "ann", ["score"]), new_token(path, "bob", ["read"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert score not in path.read_text()
    app = create_app(models, default=None, tokens=Tokens(path))
    assert ask(app, [ROW]).status == 401
    assert ask(app, [ROW], authorization="Bearer wrong").status == 401
    assert ask(app, [ROW], authorization=score).status == 401
    assert ask(app, [ROW], authorization=f"Bearer {score}").status == 200
    refused = ask(app, [ROW], authorization=f"Bearer {read}")
    assert refused.status == 403
    assert refused.json()["message"] == "The token 'bob' may not score."
    assert call(app, "GET", "/models").status == 401
    assert call(app, "GET", "/v2/models/delay").json()["error"].startswith("This server wants")
    assert call(app, "GET", "/models", headers={"authorization": f"Bearer {read}"}).status == 200
    for open_path in ("/ping", "/health", "/ready", "/version", "/v2/health/live"):
        assert call(app, "GET", open_path).status == 200
    new = new_token(path, "ann", ["admin"])  # taken up at once; the old one is no more
    assert ask(app, [ROW], authorization=f"Bearer {score}").status == 401
    assert ask(app, [ROW], authorization=f"Bearer {new}").status == 200


def test_token_files_that_are_wrong(path: Path) -> None:
    with pytest.raises(ProjectError, match="no scope 'write'"):
        new_token(path, "ann", ["write"])
    with pytest.raises(ProjectError, match="cannot be read"):
        Tokens(path)
    path.write_text("[{}]")
    with pytest.raises(ProjectError, match="cannot be read"):
        Tokens(path)


# What it tells -----------------------------------------------------------------------------------


def test_metrics_count_answers_rows_and_the_busiest_segments(models: ServedModels) -> None:
    app = create_app(models, default=None)
    for _ in range(3):
        ask(app, [ROW, ROW])
    ask(app, [{"carrier": "UA"}])
    body = json.dumps({"dataframe_records": [ROW]}).encode()
    call(app, "POST", "/invocations?explain=true", body)
    text = call(app, "GET", "/metrics").body.decode()
    assert 'shoal_requests_total{model="delay",status="200",version="1"} 3.0' in text
    assert 'shoal_requests_total{model="delay",status="400",version="1"} 1.0' in text
    assert 'shoal_rows_total{model="delay",role="champion",version="1"} 6.0' in text
    assert 'shoal_served_version{alias="challenger",model="delay"} 2.0' in text


def test_more_rows_than_allowed_are_413(models: ServedModels) -> None:
    app = create_app(models, default=None, max_rows=2)
    answer = ask(app, [ROW] * 3)
    assert answer.status == 413
    assert "3 rows; send at most 2" in answer.json()["message"]


def test_the_documents_describe_what_is_served(models: ServedModels) -> None:
    app = create_app(models, default=None)
    document = call(app, "GET", "/openapi.json").json()
    row = document["components"]["schemas"]["delay.row"]
    assert row["required"] == list(COLUMNS)
    page = call(app, "GET", "/docs").body.decode()
    assert "/models/delay/invocations" in page
    assert "http" not in page.replace("http-equiv", "")  # it loads nothing


def test_a_request_waits_for_its_turn_only_so_long() -> None:
    gate = Gate(concurrency=1, queue=5, seconds=0.2)
    free = threading.Event()

    async def ask() -> list[object]:
        first = asyncio.create_task(gate.run(free.wait, 30))
        while not gate.inside:
            await asyncio.sleep(0)
        with pytest.raises(Refused) as caught:
            await gate.run(int)
        assert (caught.value.status, caught.value.headers) == (503, {"retry-after": "2"})
        free.set()
        return [await first, await gate.run(int), gate.inside]

    assert asyncio.run(ask()) == [True, 0, 0]

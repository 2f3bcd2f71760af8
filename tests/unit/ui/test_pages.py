"""Every page over a small real project, and the rules of who may do what, without a socket."""

import io
import json
import re
import struct
import threading
import time

import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient

import meters
from shoal.engines import connect
from shoal.errors import EngineError, PipelineError, TableNotFound
from shoal.serving import new_token
from shoal.serving.tokens import Tokens
from shoal.ui import Access, Desk, create_ui, readonly
from shoal.workspace import Workspace

KEY = '["north","M0000"]'
PAGES = [
    "/",
    "/catalog",
    "/catalog?q=silver",
    "/catalog/gold.features",
    "/catalog/gold.features?tab=rows&version=0&sort=kwh&desc=1&column=kwh&op=gt&value=20",
    "/catalog/gold.features?tab=profile&against=0",
    "/part/profile/gold.features",
    "/part/profile/gold.features?version=1&against=0",
    "/part/profile/shoal.expectations",
    "/catalog/gold.features?tab=versions",
    "/catalog/gold.features?tab=files",
    "/catalog/silver.readings?tab=quality",
    "/catalog/gold.features/diff?from=0&to=1",
    "/catalog/gold.features/diff?from=0&to=1&key=meter&key=day&key=region",
    "/catalog/gold.features/restore?version=0",
    "/fleets",
    "/fleets/load",
    "/fleets/load?metric=rows&status=fallback&against=none",
    "/fleets/load?tab=versions",
    "/fleets/load?tab=card",
    f"/fleets/load/segment?key={KEY}",
    "/lineage",
    "/lineage?focus=gold.features&column=last_week",
    "/runs",
    "/runs/mlflow",
    "/endpoints",
    "/sql?q=SELECT 1",
    "/part/plan",
    "/part/try?model=load",
    "/find?q=M0003",
]


@pytest.fixture(scope="module")
def engine():
    with connect() as engine:
        yield engine


@pytest.fixture(scope="module")
def root(tmp_path_factory, engine):
    root = tmp_path_factory.mktemp("ui") / "meters"
    meters.make_project(root, engine=engine)
    return root


@pytest.fixture(scope="module")
def desk(root, engine):
    with Workspace.open(root) as space:
        space.engine = engine
        yield Desk(space)


def client_of(desk, **access):
    app = create_ui(desk, Access(**access), servers=["http://127.0.0.1:9"])
    return TestClient(app, base_url="http://127.0.0.1:8080", follow_redirects=False)


@pytest.fixture
def client(desk):
    return client_of(desk)


def csrf(client, path="/sql"):
    return re.search(r'name="csrf" content="([0-9a-f]+)"', client.get(path).text)[1]


def post(client, path, **fields):
    return client.post(path, data={"csrf": csrf(client), **fields})


@pytest.mark.parametrize("path", PAGES)
def test_each_page_answers(client, path):
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    assert "Traceback" not in answer.text
    # The policy forbids styles and scripts in the page, so there must be none.
    assert not re.search(r'\sstyle="|\son\w+="|<script>|<style', answer.text)
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_home_says_what_to_do_next_with_its_command(client):
    text = client.get("/").text
    assert "Decide on the challenger of load" in text
    assert "shoal promote load --segments won" in text
    assert "shoal quality silver.readings" in text


def test_what_was_never_trained_is_trained_from_home(tmp_path, engine):
    root = tmp_path / "new"
    meters.write_project(root, meters=4)
    with Workspace.open(root) as space:
        space.engine = engine
        client = client_of(Desk(space))
        assert "Run the project for the first time" in client.get("/").text
        assert not space.run(space.options(), models=False).failed
        text = client.get("/").text
        assert "Train the models for the first time" in text
        assert 'name="kind" value="train"' in text
        assert "all models" in client.get("/runs").text


def test_a_table_that_drifts_is_told_at_home(tmp_path, engine):
    root = tmp_path / "new"
    meters.write_project(root, meters=4)
    with Workspace.open(root) as space:
        space.engine = engine
        table = space.lake.table("silver.other")
        for shift in (0.0, 5.0):
            table.append(pl.DataFrame({"x": np.arange(200) / 100 + shift}).to_arrow())
            space.monitor(["silver.other"])
        text = client_of(Desk(space)).get("/").text
    assert "silver.other drifts" in text
    assert "/catalog/silver.other?tab=profile" in text


def test_a_profile_tells_what_columns_hold_and_how_they_moved(client, desk):
    text = client.get("/part/profile/gold.features?version=1&against=0").text
    rows = desk.table("gold.features").scan(1).collect()
    assert f"{rows.height:,} rows" in text
    gone = rows["last_week"].is_null().mean()
    assert f"{100 * gone:.1f} %" in text
    assert "Most frequent values of region: north" in text
    assert "Since version 0" in text
    assert "shoal monitor gold.features" in text
    desk.space.monitor(["gold.features"])
    text = client.get("/part/profile/gold.features").text
    assert "no alarm is open" in text


def test_the_plan_names_what_is_stale(client):
    assert "every table and model is as new" in client.get("/part/plan?short=1").text


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/catalog/gold.feature", "Did you mean &#39;gold.features&#39;?"),
        ("/catalog/..%2F..%2Fetc", "There is no"),
        ("/catalog/delta.`%2Fetc`", "There is no"),
        ("/fleets/loa", "Did you mean &#39;load&#39;?"),
        ('/fleets/load/segment?key=["north","M9"]', "has no segment"),
        ("/fleets/load/segment?key=nonsense", "has no segment"),
        ("/fleets/load?metric=state", "was not measured"),
        ("/fleets/load?version=9", "has no members"),
        ("/runs/ffffffff", "No run has the id"),
        ("/runs/live/..%2Fx", "There is no such page"),
        ("/nowhere", "There is no such page"),
    ],
)
def test_what_does_not_exist_is_a_page_that_says_so(client, path, hint):
    answer = client.get(path)
    assert answer.status_code == 404
    assert hint in answer.text


def test_rows_are_filtered_sorted_and_of_the_version_asked_for(client, root):
    old = pl.read_delta(str(root / "lake/gold/features"), version=0)
    text = client.get(
        "/catalog/gold.features?tab=rows&version=0&column=meter&op=eq&value=M0003&sort=kwh&desc=1"
    ).text
    wanted = old.filter(pl.col("meter") == "M0003").sort("kwh", descending=True)
    assert f"{wanted.height} of {old.height:,} rows match" in text
    assert f'title="{wanted["kwh"][0]:.6g}"' in text.split("<tbody>")[1].split("</tr>")[0]
    wrong = client.get("/catalog/gold.features?tab=rows&column=kwh&op=gt&value=much").text
    assert "does not fit" in wrong
    script = client.get("/catalog/gold.features?tab=rows&column=meter&op=eq&value=<script>x").text
    assert "<script>x" not in script


def test_a_restore_is_confirmed_and_refused_when_the_table_moved_on(client, desk):
    table = desk.table("gold.regions")
    newest = table.version()
    stale = post(client, "/catalog/gold.regions/restore", version="0", newest="7")
    assert stale.status_code == 400
    assert table.version() == newest
    done = post(client, "/catalog/gold.regions/restore", version="0", newest=str(newest))
    assert done.status_code == 303
    assert table.version() == newest + 1
    assert table.size()[0] == table.size(0)[0]
    assert f"version {newest + 1}" in client.get(done.headers["location"]).text
    desk.space.maintenance.restore("gold.regions", newest)


def test_segments_are_filtered_by_what_the_address_says(client, desk):
    members = pl.read_delta(desk.table("shoal.fleet_load").path).filter(
        (pl.col("fleet_version") == 1) & (pl.col("level") == 0)
    )
    middle = members["mae"].median()
    query = f"version=1&against=none&by.region=north&max={middle!r}"
    expected = members.filter((pl.col("region") == "north") & (pl.col("mae") <= middle))
    text = client.get(f"/fleets/load?{query}").text
    shown = set(re.findall(r'name="segment" value="([^"]+)"', text))
    assert {key.replace("&#34;", '"') for key in shown} == set(expected["segment"])
    assert 0 < len(shown) < members.height


def test_the_scatter_brings_every_point(client, desk):
    body = client.get("/api/fleets/load/points").content
    (count,) = struct.unpack_from("<I", body)
    x, y = np.frombuffer(body, "<f4", 2 * count, 4).reshape(2, count)
    rows = np.frombuffer(body, "<u4", count, 4 + 8 * count)
    judged = pl.read_delta(desk.table("shoal.evaluations_load").path).drop_nulls("segment")
    judged = judged.sort("segment")
    assert count == judged.height
    assert np.allclose(x, judged["champion_value"].to_numpy(), rtol=1e-6)
    assert np.allclose(y, judged["challenger_value"].to_numpy(), rtol=1e-6)
    point = client.get(f"/api/fleets/load/point?row={rows[3]}").json()
    assert json.loads(judged["segment"][3])[1] in point["label"]


def test_a_segments_series_are_its_rows_and_the_fleets_forecast(client, desk):
    address = f"/api/fleets/load/series?key={KEY}&version=1&against=2"
    found = client.get(address).json()
    rows = pl.read_delta(desk.table("gold.features").path)
    rows = rows.filter((pl.col("region") == "north") & (pl.col("meter") == "M0000")).sort("day")
    assert found["actual"] == rows["kwh"].to_list()
    fleet = desk.space.tracker.fleet("load/1")
    told = fleet.predict(rows.to_arrow(), interval=True)
    assert np.allclose(found["forecast"], told.column("prediction").to_numpy())
    assert np.allclose(found["upper"], told.column("prediction_upper").to_numpy())
    assert found["other"] is not None
    assert found["t"][0] == 1704067200


def test_selected_segments_are_promoted_with_their_evidence_and_rolled_back(client, desk):
    keys = [KEY, '["south","M0001"]']
    ask = {"kind": "promote", "segment": keys, "query": ""}
    page = client.post("/fleets/load/ask", data={"csrf": csrf(client), **ask})
    assert page.status_code == 200
    assert "Promote 2 segments of version 2?" in page.text
    assert "tested in pairs" in page.text
    move = {"kind": "promote", "version": "2", "keys": json.dumps(keys), "why": "they won"}
    stale = post(client, "/fleets/load/move", champion="9", **move)
    assert stale.status_code == 404
    assert "Nothing was changed" in stale.text
    done = post(client, "/fleets/load/move", champion="1", **move)
    assert done.status_code == 303, done.text
    text = client.get("/fleets/load?tab=versions").text
    assert "composite" in text
    assert "they won" in text
    pointers = desk.pointers()["load"]
    assert pointers.aliases["champion"] == 3
    assert desk.space.audit.moves("load")[-1].segments == tuple(sorted(keys))
    back = post(client, "/fleets/load/move", champion="3", kind="rollback", keys="[]")
    assert back.status_code == 303, back.text
    assert desk.pointers()["load"].aliases["champion"] == 1


def test_an_unknown_segment_moves_nothing(client):
    fields = {"kind": "promote", "segment": '["north","M9"]', "query": ""}
    answer = post(client, "/fleets/load/ask", **fields)
    assert answer.status_code == 404


def test_lineage_goes_from_files_to_endpoints(client):
    text = client.get("/lineage").text
    names = re.findall(r'data-name="([^"]+)"', text)
    assert {"bronze.readings", "gold.features", "model:load", "endpoint:load"} <= set(names)
    edges = set(re.findall(r'data-from="([^"]+)" data-to="([^"]+)"', text))
    assert ("gold.features", "model:load") in edges
    assert ("model:load", "gold.load_predictions") in edges
    part = client.get("/part/lineage?focus=gold.features&column=last_week").text
    assert "silver.readings.<b>kwh</b>" in part


def test_sql_answers_with_rows_and_exports(client, root):
    query = "SELECT region, count(*) AS n FROM gold.features GROUP BY region ORDER BY region"
    found = post(client, "/api/sql/run", query=query).json()
    assert [column["name"] for column in found["columns"]] == ["region", "n"]
    frame = pl.read_delta(str(root / "lake/gold/features"))
    wanted = frame.group_by("region").len().sort("region")
    assert found["values"] == [wanted["region"].to_list(), wanted["len"].to_list()]
    for kind, read in (("csv", pl.read_csv), ("json", pl.read_json), ("parquet", pl.read_parquet)):
        answer = post(client, "/sql/export", query=query, format=kind)
        assert answer.status_code == 200, answer.text
        assert read(io.BytesIO(answer.content))["n"].to_list() == wanted["len"].to_list()
    first = post(client, "/api/sql/run", query="SELECT meter FROM gold.features").json()
    assert first["rows"] == 1000
    assert first["more"]


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE gold.features",
        "INSERT INTO gold.features SELECT * FROM gold.features",
        "WITH x AS (SELECT 1) INSERT INTO gold.features SELECT * FROM x",
        "DELETE FROM gold.features",
        "UPDATE gold.features SET kwh = 0",
        "MERGE INTO gold.features t USING gold.features s ON t.day = s.day WHEN MATCHED THEN DELETE",
        "CREATE TABLE x AS SELECT 1",
        "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
        "SET spark.x = 1",
        "SHOW TABLES",
        "SELECT 1; DROP TABLE gold.features",
        "SELECT * FROM csv.`/etc/passwd`",
        "SELECT * FROM `/etc/passwd`",
        "SELECT * FROM delta.`/tmp`",
        "SELECT (SELECT count(*) FROM text.`/etc/passwd`)",
        "SELECT * FROM read_files('/etc/passwd', format => 'text')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM nowhere.at_all",
        "",
    ],
)
def test_sql_refuses_what_does_not_only_read_the_lake(client, desk, query):
    before = desk.table("gold.features").version()
    answer = post(client, "/api/sql/run", query=query)
    assert answer.status_code in {400, 404}, answer.text
    assert answer.json()["error"]
    assert desk.table("gold.features").version() == before


def test_a_write_that_got_past_the_text_is_no_relation(desk, monkeypatch):
    """The second line of defence: the engine runs a query below a limit, where no command stands."""
    before = desk.table("gold.regions").version()
    monkeypatch.setattr(readonly, "checked", lambda text: text)
    for query in ("INSERT INTO gold.regions SELECT * FROM gold.regions", "DROP TABLE gold.regions"):
        with pytest.raises((EngineError, PipelineError, TableNotFound)):
            readonly.run(desk, query, limit=5, seconds=30)
    assert desk.table("gold.regions").version() == before


def test_a_query_that_takes_too_long_is_stopped(desk):
    query = "SELECT count(*) FROM range(0, 30000000) a JOIN range(0, 3000) b ON a.id * 3 % 7 = b.id % 11"
    begun = time.monotonic()
    with pytest.raises(EngineError, match="longer than 0.5 seconds"):
        readonly.run(desk, query, limit=5, seconds=0.5)
    assert time.monotonic() - begun < 20
    assert readonly.run(desk, "SELECT 1 AS one", limit=5, seconds=30).rows.to_pylist() == [
        {"one": 1}
    ]


def test_a_request_is_tried_without_a_server(client, desk):
    values = {"v.region": "north", "v.meter": "M0000", "v.temperature": "12.5", "v.weekday": "3"}
    answer = post(client, "/part/answer", model="load", **values, **{"v.last_week": "20"})
    assert answer.status_code == 200, answer.text
    row = pl.DataFrame(
        {
            "region": ["north"],
            "meter": ["M0000"],
            "temperature": [12.5],
            "weekday": [3.0],
            "last_week": [20.0],
        }
    )
    told = desk.space.tracker.fleet("load@champion").predict(row.to_arrow())
    assert f"<dd>{told.column('prediction')[0].as_py():,.6g}</dd>" in answer.text
    wrong = post(client, "/part/answer", model="load", **{**values, "v.weekday": "monday"})
    assert "is no number" in wrong.text
    refused = post(client, "/part/answer", model="load", **values, server="http://127.0.0.1:1")
    assert "none of the servers" in refused.text


def test_answers_are_kept_by_version_and_follow_a_new_one(desk, client):
    table = desk.table("gold.regions")
    before = desk.summary(table)
    assert desk.summary(table) is before
    table.append(table.scan().head(1).collect().to_arrow())
    assert desk.summary(table).version == before.version + 1
    assert desk.summary(table).rows == before.rows + 1
    desk.space.maintenance.restore("gold.regions", before.version)


def test_a_server_that_just_started_says_that_the_page_comes(desk, root, engine):
    with Workspace.open(root) as space:
        space.engine = engine
        fresh = Desk(space)
        fresh.waiting = True
        client = client_of(fresh)
        early = client.get("/catalog", headers={"accept": "text/html"})
        assert early.status_code == 202
        assert 'http-equiv="refresh"' in early.text
        fresh.warm()
        until = time.monotonic() + 60
        while fresh.waiting and time.monotonic() < until:
            time.sleep(0.01)
        assert client.get("/catalog", headers={"accept": "text/html"}).status_code == 200


# Who may do what.


def actions(client):
    return [r for r in client.app.routes if "POST" in (getattr(r, "methods", None) or ())]


def concrete(route):
    path = route.path.replace("{name}", "gold.regions").replace("{model}", "load")
    return path.replace("{id}", "20240101-000000-ab")


def test_nothing_is_changed_without_the_pages_token(client):
    found = actions(client)
    assert len(found) >= 10
    for route in found:
        if route.path == "/login":
            continue
        client.get("/sql")  # a session there is
        for given in ({}, {"csrf": "0" * 40}):
            answer = client.post(concrete(route), data=given)
            assert answer.status_code == 403, route.path
            assert "too old" in answer.text


def test_a_viewer_looks_and_changes_nothing(desk):
    client = client_of(desk, role="viewer")
    assert "viewer" in client.get("/").text
    assert 'action="/runs/start"' not in client.get("/").text
    for route in actions(client):
        if route.path in {"/login", "/api/sql/run", "/sql/export", "/part/answer"}:
            continue
        if route.path.endswith("/ask"):
            continue
        answer = post(client, concrete(route), version="0")
        assert answer.status_code == 403, route.path
        assert "viewer" in answer.text
    assert post(client, "/api/sql/run", query="SELECT 1 AS one").status_code == 200


def test_a_token_is_asked_for_and_gives_its_role(desk, tmp_path):
    client = client_of(desk, role=None, tokens={"shoal_e": "editor", "shoal_v": "viewer"})
    page = {"accept": "text/html"}
    door = client.get("/catalog?q=gold", headers=page)
    assert door.status_code == 303
    assert door.headers["location"] == "/login?next=%2Fcatalog%3Fq%3Dgold"
    assert client.get("/api/names").status_code == 401
    assert client.post("/runs/start", data={"kind": "run"}).status_code == 401
    assert client.get("/login?token=wrong").status_code == 401
    entered = client.post("/login", data={"token": "shoal_v", "next": "/catalog?q=gold"})
    assert entered.headers["location"] == "/catalog?q=gold"
    assert "HttpOnly" in entered.headers["set-cookie"]
    assert "samesite=strict" in entered.headers["set-cookie"].lower()
    assert client.get("/catalog").status_code == 200
    assert "viewer" in client.get("/catalog").text
    away = client.get("/login?token=shoal_e&next=//evil.example/")
    assert away.headers["location"] == "/"
    bearer = {"authorization": "Bearer shoal_e"}
    fresh = client_of(desk, role=None, tokens={"shoal_e": "editor"})
    assert fresh.get("/api/names", headers=bearer).status_code == 200
    forged = {"cookie": "shoal=editor.ZWRpdG9y.x.99999999999.00"}
    assert fresh.get("/api/names", headers=forged).status_code == 401
    file = tmp_path / "tokens.json"
    admin, reader = new_token(file, "ann", ["admin"]), new_token(file, "bob", ["read"])
    filed = client_of(desk, role=None, file=Tokens(file))
    for token, edits in ((admin, True), (reader, False)):
        answer = filed.get("/", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 200
        assert ('action="/runs/start"' in answer.text) == edits


def test_other_names_and_other_sites_are_refused(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    assert client.get("/", headers={"host": "localhost:8080"}).status_code == 200
    token = csrf(client)
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        answer = client.post("/sql/export", data={"csrf": token}, headers=headers)
        assert answer.status_code == 403
        assert "another site" in answer.text


def test_commands_are_fixed_words_and_known_names(client):
    for fields in (
        {"kind": "vacuum"},
        {"kind": "train", "model": "--help"},
        {"kind": "train", "model": "nothing"},
        {"kind": "run", "table": "--full-refresh-all"},
    ):
        answer = post(client, "/runs/start", **fields)
        assert answer.status_code == 404, fields


def test_a_command_that_is_started_here_is_followed_to_its_end(client, root):
    begun = post(client, "/runs/start", kind="run", table="gold.regions", full="1")
    assert begun.status_code == 303, begun.text
    where = begun.headers["location"]
    again = post(client, "/runs/start", kind="run")
    assert again.status_code == 503
    assert "still works" in again.text
    name = where.rpartition("/")[2]
    parts, seen = [], threading.Event()
    with client.stream("GET", f"/api/runs/{name}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("data: ") and len(line) > 10:
                parts.append(json.loads(line[6:]))
            if line == "event: end":
                seen.set()
    assert seen.is_set()
    assert "gold.regions" in parts[-1]
    assert "completed" in parts[-1], parts[-1]
    page = client.get(where).text
    assert "refresh" in page
    assert "completed" in page
    assert "gold.regions" in client.get("/runs").text
    assert post(client, f"/runs/live/{name}/stop").status_code == 404

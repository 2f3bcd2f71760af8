"""The loop: watch, alarm, retrain what drifted, watch again."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from shoal.errors import ModelError, ProjectError
from shoal.serving import Client
from shoal.workspace.watch import drifted
from shops import Shops, sales

SHOAL = """
[monitor]
weight = "x0"

[alerts]
webhook = "env:SHOP_WEBHOOK"
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Shops:
    shops = Shops(tmp_path_factory.mktemp("watched") / "project")
    shops.train(0.1, more=', key=["shop", "day"]')
    with shops.open() as space:
        space.score()
    return shops


@pytest.fixture
def shops(trained, tmp_path) -> Shops:
    return trained.copy(tmp_path / "project")


def drifting(first: int, days: int, changed: list[str]) -> pa.Table:
    """Days on which some shops sell twice as much for the same x0, and one sees a larger x0."""
    rows = pl.DataFrame(sales(first, days))
    broken = pl.col("shop").is_in(changed)
    rows = rows.with_columns(y=pl.when(broken).then(pl.col("y") * 2).otherwise(pl.col("y")))
    wider = pl.col("shop") == "s9"
    rows = rows.with_columns(x0=pl.when(wider).then(pl.col("x0") + 3).otherwise(pl.col("x0")))
    return rows.to_arrow()


def land(shops: Shops, rows: pa.Table) -> None:
    with shops.open() as space:
        space.lake.table("gold.sales").append(rows)
        space.score()


def watch(shops: Shops):
    with shops.open() as space:
        (report,) = space.monitor(["sales"])
    assert report.status != "failed", report.error
    return report


def rows_of(shops: Shops, table: str) -> pl.DataFrame:
    with shops.open() as space:
        return space.lake.table(table).scan().collect()


def test_nothing_new_makes_no_window(shops):
    report = watch(shops)
    assert (report.status, report.window) == ("current", None)


def test_quiet_days_raise_no_alarm_and_a_change_does(shops):
    land(shops, sales(40, 20))
    quiet = watch(shops)
    assert (quiet.window, quiet.rows, quiet.labelled, quiet.alarms) == (1, 220, 220, 0)
    assert quiet.value == pytest.approx(quiet.reference, rel=0.3)

    land(shops, drifting(60, 20, ["s4", "s7"]))
    report = watch(shops)
    found = rows_of(shops, "shoal.drift_sales").filter(pl.col("window") == 2, pl.col("alarm"))
    alarms = set(found.select("check", "segment", "column").iter_rows())
    assert {("error", '["r0","s4"]', "mae"), ("error", '["r1","s7"]', "mae")} <= alarms
    assert ("feature", '["r1","s9"]', "x0") in alarms
    assert {segment for _, segment, _ in alarms} == {'["r0","s4"]', '["r1","s7"]', '["r1","s9"]'}
    assert (report.opened, report.alarms) == (len(alarms), len(alarms))
    assert report.value > 1.5 * report.reference
    assert watch(shops).status == "current"  # a second look at the same rows is no second window


def test_exactly_what_drifted_is_trained_again_and_then_it_is_quiet(shops):
    from shoal.workspace.watch import drifted, retrain_drifted

    land(shops, drifting(40, 40, ["s4"]))
    watch(shops)
    with shops.open() as space:
        assert '["r0","s4"]' in drifted(space, "sales")
        wanted = drifted(space, "sales")
        report = retrain_drifted(space, "sales", promote=True)
        assert report.status == "trained", report.error
        assert f"{len(wanted)} of 12 segments fitted" in report.reason
        assert drifted(space, "sales") == []  # it has seen the window now
        assert retrain_drifted(space, "sales") is None
    land(shops, drifting(80, 20, ["s4"]))
    after = watch(shops)
    state = rows_of(shops, "shoal.drift_sales").filter(
        pl.col("window") == 2, pl.col("segment") == '["r0","s4"]', pl.col("check") == "error"
    )
    assert state["model_version"].to_list() == [2]
    # Half of its training rows are from before: what it promises is what it does now.
    assert state["value"][0] < 1.25 * state["reference"][0] or state["alarm"][0]
    assert after.window == 2


def test_truth_that_comes_late_counts_when_it_comes(shops):
    rows = pl.DataFrame(sales(40, 20))
    unknown = rows.with_columns(y=pl.lit(None, pl.Float64))
    land(shops, unknown.to_arrow())
    first = watch(shops)
    assert (first.rows, first.labelled) == (220, 0)
    with shops.open() as space:
        table = space.lake.table("gold.sales")
        known = table.scan().filter(pl.col("y").is_not_null()).collect()
        table.append(pl.concat([known, rows]).to_arrow(), overwrite=True)
    second = watch(shops)
    assert (second.window, second.labelled) == (2, 220)
    assert second.value == pytest.approx(second.reference, rel=0.3)


@contextlib.contextmanager
def served(shops: Shops):
    """A client of ``shoal serve --log``; when it ends, all that it answered is in the log."""
    command = [sys.executable, "-m", "shoal.cli", "serve", "sales", "--log", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--project", str(shops.root)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        url = next(line.split()[2] for line in process.stdout if line.startswith("Serving at"))
        with Client(url) as client:
            yield client
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()


def test_what_a_server_was_asked_is_watched_and_its_answers_when_their_truth_comes(tmp_path):
    shops = Shops(tmp_path / "project")
    shops.train(0.1, more=', key=["shop", "day"], features=["day", "x0", "x1"]')
    (shops.root / "shoal.toml").write_text('[monitor]\nsource = "inferences"\n')
    with shops.open() as space:
        (report,) = space.monitor(["sales"])
        assert "shoal serve sales --log" in (report.error or "")
    asked = pl.DataFrame(drifting(40, 20, ["s4"]))
    with served(shops) as client:
        client.predict(asked.drop("y").to_arrow())
    first = watch(shops)
    assert (first.table, first.rows, first.labelled) == ("shoal.inferences_sales", 220, 0)
    found = rows_of(shops, "shoal.drift_sales").filter(pl.col("alarm"))
    assert ("feature", '["r1","s9"]', "x0") in set(
        found.select("check", "segment", "column").iter_rows()
    )
    assert watch(shops).status == "current"  # no request and no truth is new

    with shops.open() as space:
        space.lake.table("gold.sales").append(asked.to_arrow())
    second = watch(shops)
    assert (second.window, second.rows, second.labelled) == (2, 0, 220)
    found = rows_of(shops, "shoal.drift_sales").filter(
        pl.col("window") == 2, pl.col("check") == "error", pl.col("alarm")
    )
    assert set(found["segment"]) == {'["r0","s4"]', '["r1","s9"]'}
    with shops.open() as space:
        assert drifted(space, "sales") == ['["r0","s4"]', '["r1","s9"]']
    with served(shops) as client:
        client.predict(asked.drop("y").head(30).to_arrow())
    third = watch(shops)
    assert (third.window, third.rows, third.labelled) == (3, 30, 0)


class Hook:
    """A webhook that takes down what it gets, and first answers as often as told with 503."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.got: list[tuple[str, dict]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.refusals -= 1
                refused = hook.refusals >= 0
                if not refused:
                    hook.got.append((self.headers["Idempotency-Key"], body))
                self.send_response(503 if refused else 204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/secret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_alerts_are_sent_once_and_wait_while_nobody_takes_them(shops, monkeypatch):
    (shops.root / "shoal.toml").write_text(SHOAL)
    land(shops, drifting(40, 20, ["s4"]))
    monkeypatch.setenv("SHOP_WEBHOOK", "http://127.0.0.1:9/nobody")
    monkeypatch.setattr("shoal.monitoring.alerts._TRIES", 1)
    assert watch(shops).undelivered == 1
    hook = Hook(refusals=1)
    try:
        monkeypatch.setenv("SHOP_WEBHOOK", hook.url)
        monkeypatch.setattr("shoal.monitoring.alerts._TRIES", 4)
        assert watch(shops).undelivered == 0  # no new window, but the alert is not forgotten
        assert watch(shops).undelivered == 0
    finally:
        hook.close()
    ((key, body),) = hook.got
    assert body["model"] == "sales"
    assert body["opened"] >= 2
    assert body["worst"][0]["score"] >= body["worst"][-1]["score"]
    kept = rows_of(shops, "shoal.alerts").sort("at")
    assert kept["status"].to_list() == ["made", "delivered"]
    assert kept["id"].to_list() == [key, key]
    assert "secret" not in str(kept.to_dicts())


def test_a_webhook_that_is_not_set_names_its_variable(shops, monkeypatch):
    (shops.root / "shoal.toml").write_text(SHOAL)
    monkeypatch.delenv("SHOP_WEBHOOK", raising=False)
    with shops.open() as space:
        (report,) = space.monitor(["sales"])
    assert report.status == "failed"
    assert "export SHOP_WEBHOOK=" in report.error or "SHOP_WEBHOOK" in report.error


def test_the_window_before_as_the_baseline(shops):
    (shops.root / "shoal.toml").write_text('[monitor]\nbaseline = "previous"\ncolumns = ["x0"]\n')
    land(shops, drifting(40, 20, []))
    first = watch(shops)
    assert [part["segment"] for part in first.worst if part["check"] == "feature"] == [
        '["r1","s9"]'
    ]
    land(shops, drifting(60, 20, []))
    watch(shops)
    last = rows_of(shops, "shoal.drift_sales").filter(pl.col("window") == 2)
    feature = last.filter(pl.col("segment") == '["r1","s9"]', pl.col("check") == "feature")
    assert feature["changed"].to_list() == ["closed"]  # as it was the window before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[monitor]\nalpa = 0.1\n", "unknown key 'alpa'"),
        ("[monitor]\nalpha = 2\n", "'alpha' in monitor is 2"),
        ('[monitor]\nbaseline = "yesterday"\n', "'baseline'"),
        ('[monitor.models.sales]\npsi = "big"\n', "must be float or int"),
        ('[monitor]\nchecks = ["errors"]\n', "'checks'"),
        ("[alerts]\nmail = { to = [] }\n", "alerts.mail needs 'to'"),
    ],
)
def test_wrong_settings_are_named(shops, text, words):
    (shops.root / "shoal.toml").write_text(text)
    with pytest.raises(ProjectError, match=words.replace("[", r"\[")):
        shops.open()


def test_columns_that_are_not_there_are_named(shops):
    (shops.root / "shoal.toml").write_text('[monitor]\ncolumns = ["x9"]\n')
    land(shops, sales(40, 20))
    with shops.open() as space:
        (report,) = space.monitor(["sales"])
    assert "'x9', which is no feature" in report.error


def test_a_model_that_was_never_watched_says_so(shops):
    from shoal.workspace.watch import drifted

    with shops.open() as space, pytest.raises(ModelError, match="never watched"):
        drifted(space, "sales")


def test_two_that_watch_at_once_make_one_window(shops):
    land(shops, sales(40, 20))
    from concurrent.futures import ThreadPoolExecutor

    def one(_):
        with shops.open() as space:
            (report,) = space.monitor(["sales"])
            return report

    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(one, range(2)))
    windows = rows_of(shops, "shoal.drift_sales").filter(pl.col("check") == "window")
    assert windows.height == 1
    assert [report.status for report in reports].count("watched") == 1
    assert np.isfinite(reports[0].seconds)

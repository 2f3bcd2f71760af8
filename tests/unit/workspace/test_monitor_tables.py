"""Tables that are watched without a model."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner

from projects import SmallProject
from shoal.cli import cli
from shoal.errors import ProjectError

REGIONS = ("north", "south", "east")


def rows(seed: int, *, per: int = 400, shifted: str = "", gone: str = "") -> pa.Table:
    """Readings of three regions; one may use more, another may lose what it measured."""
    random = np.random.default_rng(seed)
    region = np.repeat(REGIONS, per)
    kwh = random.gamma(3, 2, len(region)) + 4 * (region == shifted)
    lost = (region == gone) & (random.random(len(region)) < 0.5)
    return pa.table(
        {
            "region": region,
            "kwh": pa.array(np.where(lost, np.nan, kwh), from_pandas=True),
            "plan": random.choice(["day", "night", "flat"], len(region)),
            "note": [[1]] * len(region),  # cannot be compared, and is left out
        }
    )


@pytest.fixture
def project(tmp_path) -> SmallProject:
    project = SmallProject(tmp_path / "project")
    settle(project, 'by = ["region"]')
    project.lake.table("silver.readings").append(rows(1))
    return project


def settle(project: SmallProject, text: str, more: str = "") -> None:
    (project.root / "shoal.toml").write_text(f'[monitor.tables."silver.readings"]\n{text}\n{more}')


def watch(project: SmallProject, *names: str):
    with project.open() as space:
        (report,) = space.monitor(names)
    return report


def alarms(project: SmallProject) -> set[tuple[str, str]]:
    found = project.lake.table("shoal.drift_table_silver__readings").scan().collect()
    open_now = found.filter(pl.col("alarm"), pl.col("window") == found["window"].max())
    return {(json.loads(s)[0], c) for s, c in open_now.select("segment", "column").iter_rows()}


def test_what_changed_in_a_segment_is_found_and_nothing_else(project):
    first = watch(project)
    assert (first.status, first.window, first.rows, first.tests) == ("watched", 1, 1200, 0)
    assert watch(project).status == "current"
    table = project.lake.table("silver.readings")
    table.append(rows(2))
    quiet = watch(project)
    assert (quiet.window, quiet.rows, quiet.segments, quiet.tests) == (2, 1200, 3, 6)
    assert quiet.alarms == 0
    table.append(rows(3, shifted="south", gone="east"))
    loud = watch(project)
    assert (loud.since, loud.table_version) == (1, 2)
    assert alarms(project) == {("south", "kwh"), ("east", "kwh")}
    assert loud.worst[0]["column"] == "kwh"
    table.append(rows(4))
    assert watch(project).closed == 2


def test_each_window_can_be_compared_with_the_one_before(project):
    settle(project, 'by = ["region"]\nbaseline = "previous"')
    table = project.lake.table("silver.readings")
    watch(project)
    table.append(rows(2, shifted="south"))
    assert watch(project).opened == 1
    table.append(rows(3, shifted="south"))  # as the last time
    assert watch(project).closed == 1


def test_a_version_can_be_what_windows_are_compared_with(project):
    settle(project, 'baseline = "0"')
    project.lake.table("silver.readings").append(rows(2, shifted="south"))
    report = watch(project)
    assert (report.window, report.since, report.rows) == (1, None, 2400)
    assert report.tests == 3  # region is a column like others where nothing is by region


def test_replaced_rows_are_compared_as_a_whole(project):
    watch(project)
    table = project.lake.table("silver.readings")
    with project.open() as space:
        space.maintenance.restore("silver.readings", 0)
    table.append(rows(5, shifted="north"))
    from deltalake import write_deltalake

    write_deltalake(str(table.path), rows(6, shifted="north"), mode="overwrite")
    report = watch(project)
    assert "replaced rows: all rows are compared" in report.notes[0]
    assert report.rows == 1200
    assert alarms(project) == {("north", "kwh")}


def test_new_rows_of_a_partitioned_table_are_those_that_came(project):
    table = project.lake.table("silver.parts")
    table.append(rows(1), partition_by=["region"])
    (project.root / "shoal.toml").write_text('[monitor.tables."silver.parts"]\nby = ["region"]\n')
    assert watch(project).rows == 1200
    table.append(rows(2, per=100, shifted="east"))
    report = watch(project)
    assert (report.rows, report.segments, report.opened) == (300, 3, 1)


def test_alerts_name_the_table(project):
    told: list[dict[str, object]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/"
        settle(project, 'by = ["region"]', f'[alerts]\nwebhook = "{url}"\n')
        watch(project)
        project.lake.table("silver.readings").append(rows(2, shifted="south"))
        assert watch(project).undelivered == 0
    finally:
        server.shutdown()
        server.server_close()
    (alert,) = told
    assert str(alert["text"]).startswith("silver.readings: 1 alarms opened in 1 segments")


def test_a_table_that_is_named_is_watched_without_settings(project):
    project.lake.table("gold.other").append(rows(1))
    done = CliRunner().invoke(
        cli, ["monitor", "gold.other", "--project", str(project.root)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "gold.other" in done.output
    assert project.lake.table("shoal.drift_table_gold__other").exists()


def test_where_nothing_is_watched_it_says_so(tmp_path):
    empty = SmallProject(tmp_path / "empty")
    done = CliRunner().invoke(
        cli, ["monitor", "--project", str(empty.root)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert "Nothing is watched" in done.output


def test_a_column_that_is_none_is_named(project):
    settle(project, 'columns = ["kwhh"]')
    report = watch(project)
    assert report.status == "failed"
    assert "Did you mean 'kwh'?" in str(report.error)
    settle(project, 'by = ["place"]')
    assert "'place'" in str(watch(project).error)


def test_a_dropped_or_new_column_is_told(project):
    watch(project)
    more = rows(2).append_column("volts", pa.array(np.full(1200, 230.0)))
    project.lake.table("silver.readings").append(more)
    assert "nothing is known from before of volts" in watch(project).notes[0]


def test_a_table_that_is_not_there_is_a_report(project):
    report = watch(project, "silver.reading")
    assert report.status == "failed"
    assert "silver.readings" in str(report.error)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[monitor.tables.silver.readings]\n", r'\[monitor.tables."silver.readings"\]'),
        ('[monitor.tables."a.b"]\nbaseline = "newest"\n', "newest"),
        ('[monitor.tables."a.b"]\nby = "region"\n', "list of columns"),
        ('[monitor.tables."a.b"]\nchecks = ["error"]\n', "checks"),
        ('[monitor.tables."a.b"]\npsi = 0\n', "psi"),
    ],
)
def test_settings_that_cannot_be_are_named(project, text, wrong):
    (project.root / "shoal.toml").write_text(text)
    with pytest.raises(ProjectError) as told, project.open():
        pass
    import re

    assert re.search(wrong, f"{told.value.message} {told.value.hint}")

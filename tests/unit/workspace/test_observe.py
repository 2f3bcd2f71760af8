"""What OpenLineage and OpenTelemetry see of a run, by their own clients, at a real server."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from projects import SmallProject
from shoal.serving import Client

pytest.importorskip("openlineage.client")

TABLES = """
from pyspark import pipelines as dp
import shoal

@dp.table(name="bronze.sales")
def bronze():
    return spark.readStream.format("json").schema("shop STRING, n INT").load("landing")

@dp.materialized_view(name="silver.sales")
@shoal.expect_or_drop("some", "n > 0")
def silver():
    return spark.sql("SELECT upper(shop) AS shop, n AS pieces, n FROM bronze.sales")
"""
MODEL = """
import shoal
from sklearn.linear_model import Ridge

@shoal.model(table="silver.sales", target="pieces", by=["shop"], holdout=0.2, min_rows=3)
def m():
    return Ridge()
"""


@pytest.fixture
def project(tmp_path) -> SmallProject:
    project = SmallProject(tmp_path / "p")
    project.python(TABLES)
    (project.root / "models").mkdir()
    (project.root / "models/m.py").write_text(MODEL)
    rows = [{"shop": "ab"[i % 2], "n": i} for i in range(40)]
    project.land("1.json", rows)
    return project


class Collector:
    """Takes down what is posted to it."""

    def __init__(self) -> None:
        self.got: dict[str, list[bytes]] = defaultdict(list)
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.got[self.path].append(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


def run(project: SmallProject, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal.cli", "run", "--project", str(project.root)]
    environment = {**os.environ, **variables}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_openlineage_hears_of_tables_columns_expectations_models_and_scores(
    project, collector
) -> None:
    done = run(project, OPENLINEAGE_URL=collector.url)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(body) for body in collector.got["/api/v1/lineage"]]
    states = defaultdict(list)
    for event in events:
        states[event["job"]["name"]].append(event["eventType"])
        assert event["run"]["facets"]["parent"]["job"]["name"] == "shoal"
    assert states == {
        "bronze.sales": ["START", "COMPLETE"],
        "silver.sales": ["START", "COMPLETE"],
        "expectations.silver.sales": ["COMPLETE"],
        "train.m": ["START", "COMPLETE"],
        "score.m": ["START", "COMPLETE"],
    }
    ended = {e["job"]["name"]: e for e in events if e["eventType"] == "COMPLETE"}
    lake = project.root / "lake"
    (source,) = ended["bronze.sales"]["inputs"]
    assert (source["namespace"], source["name"]) == ("file", str(project.root / "landing"))
    (made,) = ended["silver.sales"]["outputs"]
    assert (made["namespace"], made["name"]) == ("file", str(lake / "silver/sales"))
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == 39
    assert [f["name"] for f in made["facets"]["schema"]["fields"]] == ["shop", "pieces", "n"]
    (origin,) = [
        field
        for field in made["facets"]["columnLineage"]["fields"]["pieces"]["inputFields"]
        if field["transformations"][0]["type"] == "DIRECT"
    ]
    assert (origin["name"], origin["field"]) == (str(lake / "bronze/sales"), "n")
    (tested,) = ended["expectations.silver.sales"]["inputs"]
    (assertion,) = tested["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert (assertion["assertion"], assertion["success"]) == ("some", False)
    (model,) = ended["train.m"]["outputs"]
    assert model["name"] == "models/m"
    assert model["facets"]["version"]["datasetVersion"] == "1"
    assert ended["score.m"]["outputs"][0]["name"].endswith("m_predictions")


def test_a_failure_is_told_with_its_message(project, collector) -> None:
    file = project.root / "transformations/tables.py"
    file.write_text(file.read_text().replace("upper(shop)", "raise_error('no such shop')"))
    done = run(project, OPENLINEAGE_URL=collector.url)
    assert done.returncode == 1
    events = [json.loads(body) for body in collector.got["/api/v1/lineage"]]
    (failed,) = [
        e for e in events if e["eventType"] == "FAIL" and e["job"]["name"] == "silver.sales"
    ]
    assert "no such shop" in failed["run"]["facets"]["errorMessage"]["message"]


def test_nobody_who_listens_stops_no_run(project, collector) -> None:
    collector.server.socket.close()  # the port refuses from here on
    gone = {"OPENLINEAGE_URL": collector.url, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    done = run(project, **gone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OpenLineage's events are not taken" in done.stderr
    assert project.rows("silver.sales")


def test_opentelemetry_gets_one_trace_with_what_was_counted(project, collector) -> None:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
    )
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    done = run(project, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, TRACEPARENT=caller)
    assert done.returncode == 0, done.stdout + done.stderr
    spans = {}
    for body in collector.got["/v1/traces"]:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                spans |= {span.name: span for span in scope.spans}
    root = next(name for name in spans if name.startswith("shoal "))
    assert {"table bronze.sales", "table silver.sales", "train m", "score m"} <= spans.keys()
    assert {span.trace_id.hex() for span in spans.values()} == {caller[3:35]}
    assert spans["train m"].parent_span_id == spans[root].span_id
    counted = {}
    for body in collector.got["/v1/metrics"]:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.sum.data_points:
                        names = {a.key: a.value.string_value for a in point.attributes}
                        counted[metric.name, names["shoal.name"]] = point.as_int
    assert counted["shoal.rows", "silver.sales"] == 39
    assert counted["shoal.models", "m"] == 2


def test_a_servers_requests_go_on_with_their_callers_trace(project, collector) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    assert run(project).returncode == 0
    command = [sys.executable, "-m", "shoal.cli", "serve", "m", "--port", "0"]
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    process = subprocess.Popen(
        [*command, "--project", str(project.root)],
        env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with contextlib.ExitStack() as stack:
        stack.callback(process.stdout.close)
        stack.callback(process.wait, 60)
        stack.callback(process.terminate)
        url = next(line.split()[2] for line in process.stdout if line.startswith("Serving at"))
        with Client(url) as client:
            assert len(client.predict([{"shop": "A", "n": 3}])) == 1
    spans = [
        span
        for body in collector.got["/v1/traces"]
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    paths = [a.value.string_value for span in spans for a in span.attributes]
    assert any("/invocations" in text for text in paths)


def test_nothing_of_it_is_imported_while_nobody_listens(project) -> None:
    code = (
        "import sys; from shoal.workspace import Workspace\n"
        f"space = Workspace.open({str(project.root)!r}); space.close()\n"
        "assert not {m for m in sys.modules if m.startswith(('openlineage', 'opentelemetry'))}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)

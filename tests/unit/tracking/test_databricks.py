"""A Databricks-style URI: what the real SDK sends, to a server of our own that answers like it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest

from shoal.errors import TrackingError
from shoal.tracking import Tracker

Asked = tuple[str, str, dict[str, object], str]


class Workspace:
    """Answers the REST calls of MLflow on Databricks; keeps each request."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.made: dict[str, str] = {}
        workspace = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Says nothing."""

            def answer(self) -> None:
                parts = urlsplit(self.path)
                size = int(self.headers.get("Content-Length") or 0)
                said = json.loads(self.rfile.read(size)) if size else {}
                said |= {k: v[0] for k, v in parse_qs(parts.query).items()}
                token = self.headers.get("Authorization", "")
                if parts.path.startswith("/api/2.0/mlflow"):  # not the SDK's own discovery
                    workspace.asked.append((self.command, parts.path, said, token))
                status, told = workspace.reply(parts.path, said)
                body = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def reply(self, path: str, said: dict[str, object]) -> tuple[int, dict[str, object]]:
        name = str(said.get("experiment_name", said.get("name", "")))
        if path.endswith("/experiments/get-by-name"):
            if name not in self.made:
                return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}
            about = {"experiment_id": self.made[name], "name": name, "lifecycle_stage": "active"}
            return 200, {"experiment": about}
        if path.endswith("/experiments/create"):
            if not name.startswith("/"):
                return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "absolute path"}
            self.made[name] = "77"
            return 200, {"experiment_id": "77"}
        if path.endswith("/runs/search"):
            return 200, {}
        return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": path}


@pytest.fixture
def workspace(monkeypatch, tmp_path) -> Iterator[Workspace]:
    found = Workspace()
    thread = Thread(target=found.server.serve_forever, daemon=True)
    thread.start()
    config = tmp_path / "databrickscfg"
    config.write_text(f"[team]\nhost = {found.url}\ntoken = of-the-team\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(config))
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "DATABRICKS_CONFIG_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def test_the_experiment_is_made_by_its_whole_path_with_the_token(workspace, monkeypatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", workspace.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "secret")
    tracker = Tracker("databricks", None, "flights")
    assert tracker.runs() == []
    assert tracker._experiment_id() == "77"
    assert tracker.runs() == []
    sent = [(method, path, said) for method, path, said, _ in workspace.asked]
    by_name = ("GET", "/api/2.0/mlflow/experiments/get-by-name")
    assert sent[0] == (*by_name, {"experiment_name": "/Shared/flights"})
    made = next(said for method, path, said in sent if path.endswith("/experiments/create"))
    assert made == {"name": "/Shared/flights"}
    searched = next(said for _, path, said in sent if path.endswith("/runs/search"))
    assert searched["experiment_ids"] == ["77"]
    assert {token for *_, token in workspace.asked} == {"Bearer secret"}
    assert "secret" not in repr(tracker)


def test_a_profile_of_the_configuration_file_is_used(workspace) -> None:
    tracker = Tracker("databricks://team", None, "/Users/ada/flights")
    assert tracker.runs() == []
    assert workspace.asked[0][2] == {"experiment_name": "/Users/ada/flights"}
    assert {token for *_, token in workspace.asked} == {"Bearer of-the-team"}


def test_what_the_workspace_refuses_is_told(workspace) -> None:
    with pytest.raises(TrackingError, match="Cannot list the registered models"):
        Tracker("databricks://team", None, "flights").models()

"""MLflow's own pages, started beside the workspace when someone wants them."""

from __future__ import annotations

import atexit
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.workspace import Workspace

__all__ = ["Place", "TrackingPages"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where MLflow's pages are.

    Args:
        url: Their address; empty when they were not started.
        state: ``server`` (the project's own tracking server), ``off``, ``starting``, ``ready`` or
            ``ended``.
    """

    url: str
    state: str


class TrackingPages:
    """Starts ``mlflow server`` on a free port of this machine, for this machine only.

    Args:
        space: The workspace whose runs it shows.
    """

    def __init__(self, space: Workspace) -> None:
        self._space = space
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""
        self._lock = threading.Lock()

    def where(self) -> Place:
        """Where the pages are now."""
        uri = self._space.project.tracking
        if uri.startswith(("http://", "https://")):
            return Place(url=(uri.partition("@")[2] and "") or uri, state="server")
        if self._process is None:
            return Place(url="", state="off")
        if self._process.poll() is not None:
            return Place(url="", state="ended")
        return Place(url=self._url, state="ready" if self._answers() else "starting")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/health", timeout=1) as answer:  # noqa: S310  (its own loopback address)
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def start(self) -> None:
        """Starts them, unless they are there."""
        with self._lock:
            if self.where().state not in {"off", "ended"}:
                return
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            project = self._space.project
            command = [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
                "--port", str(port), "--backend-store-uri", project.tracking, "--workers", "1",
            ]  # fmt: skip
            if project.artifacts:
                command += ["--default-artifact-root", project.artifacts]
            self._process = subprocess.Popen(  # noqa: S603  (the project's own settings)
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._url = f"http://127.0.0.1:{port}"
            atexit.register(self.stop)

    def stop(self) -> None:
        """Ends them."""
        import os
        import signal

        process = self._process
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(10)

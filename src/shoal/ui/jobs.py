"""Commands that pages start: processes of their own, which outlive the page and its server.

A page names what to do with fixed words and known names; nothing of a request becomes an option.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.errors import Conflict
from shoal.ui.routes import Missing
from shoal.workspace.feeds import feeds, live_folder, read_feed
from shoal.workspace.live import LIVE_ID

if TYPE_CHECKING:
    from pathlib import Path

    from shoal.workspace import Workspace

__all__ = ["KINDS", "Jobs"]

KINDS = ("run", "train", "search", "score", "evaluate", "monitor")
_LOG = 200_000


class Jobs:
    """Starts and stops commands of one project.

    Args:
        space: The workspace.
    """

    def __init__(self, space: Workspace) -> None:
        self._space = space
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._runs: list[str] = []
        self._lock = threading.Lock()

    @property
    def folder(self) -> Path:
        """Where feeds and logs are."""
        return live_folder(self._space.project.here)

    def start(self, kind: str, names: Sequence[str] = (), flags: Sequence[str] = ()) -> str:
        """Starts a command.

        Args:
            kind: One of `KINDS`.
            names: Tables of a run, or models; known ones.
            flags: Flags that this module's caller wrote itself.

        Returns:
            The id of its feed.

        Raises:
            Missing: There is no such command.
            Conflict: One that writes tables works already.
        """
        if kind not in KINDS:
            raise Missing(f"There is no command '{kind}' to start.")
        with self._lock:
            working = [feed for feed in feeds(self._space.project.here) if feed.running]
            busy = [feed for feed in working if feed.command.startswith("run")]
            starting = kind == "run" and any(self.ours(name) for name in self._runs)
            if kind == "run" and (busy or starting):
                began = f" that began {busy[0].started:%H:%M:%S} UTC" if busy else ""
                raise Conflict(
                    f"A run{began} still works.",
                    hint="Wait until it ends, or stop it; nothing was started.",
                )
            name = self._start(kind, names, flags)
            if kind == "run":
                self._runs.append(name)
            return name

    def _start(self, kind: str, names: Sequence[str], flags: Sequence[str]) -> str:
        project = self._space.project
        name = f"{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
        command = [sys.executable, "-m", "shoal.cli", kind, "--project", str(project.root)]
        if project.profile.name != "default":
            command += ["--profile", project.profile.name]
        command += flags
        if kind == "run":
            command += [f"--select={table}" for table in names]
        else:
            command += ["--", *names]
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, LIVE_ID: name, "NO_COLOR": "1", "COLUMNS": "132"}
        with (self.folder / f"{name}.log").open("wb") as log:
            self._started[name] = subprocess.Popen(  # noqa: S603  (fixed words and known names)
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=project.root,
                env=environment,
                start_new_session=True,
            )
        return name

    def ours(self, name: str) -> bool:
        """Whether this server started a command that still works."""
        process = self._started.get(name)
        return process is not None and process.poll() is None

    def starting(self, name: str) -> bool:
        """Whether a command was started that has written no feed yet."""
        return self.ours(name) and read_feed(self._space.project.here, name) is None

    def code(self, name: str) -> int | None:
        """The exit code of a command that this server started; None while it works."""
        process = self._started.get(name)
        return None if process is None else process.poll()

    def known(self, name: str) -> bool:
        """Whether this server started it."""
        return name in self._started

    def stop(self, name: str) -> None:
        """Asks a command of this server to end between two commits, as Ctrl-C does.

        Raises:
            Missing: It has ended, or another process started it.
        """
        if not self.ours(name):
            raise Missing("It has ended, or was started elsewhere.", hint="Ctrl-C there stops it.")
        self._started[name].send_signal(signal.SIGTERM)

    def log(self, name: str) -> str:
        """What a command printed, its end if it is long."""
        if "/" in name or (not (self.folder / f"{name}.jsonl").exists() and not self.known(name)):
            return ""
        try:
            text = (self.folder / f"{name}.log").read_bytes()
        except OSError:
            return ""
        return text[-_LOG:].decode("utf-8", "replace")

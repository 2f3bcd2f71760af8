"""What a command says of itself while it works: lines in a file that others may follow.

``<lake>/_shoal/live/<id>.jsonl`` begins with who works at what, then has a line for each event. The
process holds a lock on it as long as it lives, so that a follower tells one that works from one
that was killed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from shoal.workspace.opened import Opened

__all__ = ["LIVE_ID", "Feed", "feeds", "live", "live_folder", "read_feed"]

# Names the feed that a process is to write, for whoever started it.
LIVE_ID = "SHOAL_LIVE_ID"
_ID = re.compile(r"[0-9A-Za-z-]{8,60}")
_KEPT = 100
_PAUSE = 0.1  # seconds between two lines on the progress of one thing

Event = Callable[[str, str, Any], None]


@dataclass(frozen=True, kw_only=True)
class Feed:
    """One command's feed.

    Args:
        id: Its name.
        command: ``run``, ``train``, ....
        names: The tables or models that it was asked for; empty for all.
        started: When, UTC.
        pid: Its process.
        running: The process lives and has not ended its work.
        status: ``running``, ``completed``, ``failed``, ``interrupted`` or ``killed``.
        lines: Its events; each has ``t``, seconds since the start, ``stage``, ``name`` and
            ``state``: ``start``, ``progress`` or ``done``.
        error: Why it failed.
        seconds: How long it worked, as far as known.
    """

    id: str
    command: str
    names: tuple[str, ...]
    started: dt.datetime
    pid: int
    running: bool
    status: str
    lines: tuple[Mapping[str, Any], ...]
    error: str
    seconds: float


def live_folder(root: Path) -> Path:
    """Where a lake's feeds are."""
    return root / "_shoal" / "live"


@contextlib.contextmanager
def live(space: Opened, command: str, names: Sequence[str] = ()) -> Iterator[None]:
    """Writes a feed of a workspace's events while open; one that cannot be written stops nothing.

    Args:
        space: The workspace.
        command: What is done.
        names: The tables or models that it is done to.
    """
    writer = _Writer(live_folder(space.project.here), space.on_event, command, names)
    before, space.on_event = space.on_event, writer.event
    status, error = "completed", ""
    try:
        yield
    except SystemExit as leaving:
        status = "completed" if not leaving.code else "failed"
        raise
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    except BaseException as failure:
        status, error = "failed", str(failure)
        raise
    finally:
        space.on_event = before
        writer.end(status, error)


class _Writer:
    def __init__(self, folder: Path, then: Event, command: str, names: Sequence[str]) -> None:
        self._then, self._begun = then, time.monotonic()
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], float] = {}
        self._file: TextIO | None = None
        now = dt.datetime.now(dt.UTC)
        given = os.environ.get(LIVE_ID, "")
        name = given if _ID.fullmatch(given) else f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            _prune(folder)
            self._file = (folder / f"{name}.jsonl").open("a", encoding="utf-8")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._write(
            {"command": command, "names": list(names), "at": now.isoformat(), "pid": os.getpid()}
        )

    def _write(self, line: Mapping[str, Any]) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._file is not None:
                self._file.write(json.dumps(line, default=str) + "\n")
                self._file.flush()

    def event(self, stage: str, name: str, value: Any) -> None:
        """Takes an event, and passes it on; see `Workspace`."""
        self._then(stage, name, value)
        at, key = time.monotonic() - self._begun, (stage, name)
        line: dict[str, Any] = {"t": round(at, 3), "stage": stage, "name": name}
        if is_dataclass(value) and not isinstance(value, type):
            self._write(line | {"state": "done", "report": asdict(value)})
            return
        if key not in self._last:
            self._write(line | {"state": "start"})
        first, self._last[key] = key not in self._last, self._last.get(key, -1.0)
        done, total = value if isinstance(value, tuple) else (value, None)
        whole = isinstance(done, int) and done > 0
        if whole and (first or done == total or at - self._last[key] >= _PAUSE):
            self._last[key] = at
            self._write(line | {"state": "progress", "done": done, "total": total})

    def end(self, status: str, error: str) -> None:
        """Says how it ended."""
        at = round(time.monotonic() - self._begun, 3)
        self._write({"t": at, "end": status, "error": error})
        if self._file is not None:
            with contextlib.suppress(OSError):  # on a full disk: what is left cannot be written
                self._file.close()


def _prune(folder: Path) -> None:
    """Leaves the newest feeds."""
    found = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    for path in found[:-_KEPT]:
        path.unlink(missing_ok=True)
        path.with_suffix(".log").unlink(missing_ok=True)


def feeds(root: Path) -> list[Feed]:
    """The feeds of a lake, the newest first."""
    found = [read_feed(root, path.stem) for path in live_folder(root).glob("*.jsonl")]
    return sorted(filter(None, found), key=lambda feed: feed.started, reverse=True)


def read_feed(root: Path, name: str) -> Feed | None:
    """One feed as far as it is written; None when there is none.

    Args:
        root: The lake's root.
        name: The feed's id.
    """
    if not _ID.fullmatch(name):
        return None
    path = live_folder(root) / f"{name}.jsonl"
    try:
        with path.open(encoding="utf-8") as file:
            alive = _held(file)
            lines = [json.loads(line) for line in file.read().splitlines() if line.endswith("}")]
    except (OSError, ValueError):
        return None
    if not lines or "command" not in lines[0]:
        return None
    head, rest = lines[0], lines[1:]
    ended = next((line for line in rest if "end" in line), None)
    status = str(ended["end"]) if ended else "running" if alive else "killed"
    reports = [line["report"] for line in rest if "report" in line]
    if status == "completed" and any(r.get("status") in {"failed", "skipped"} for r in reports):
        status = "failed"
    started = dt.datetime.fromisoformat(head["at"])
    now = (dt.datetime.now(dt.UTC) - started).total_seconds()
    last = float(rest[-1]["t"]) if rest else 0.0
    return Feed(
        id=name,
        command=head["command"],
        names=tuple(head["names"]),
        started=started,
        pid=int(head["pid"]),
        running=status == "running",
        status=status,
        lines=tuple(line for line in rest if "stage" in line),
        error=str(ended.get("error") or "") if ended else "",
        seconds=now if status == "running" else last,
    )


def _held(file: TextIO) -> bool:
    """Whether a process holds the file's lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False

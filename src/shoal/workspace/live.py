"""What a command says of itself while it works: lines in a file that others may follow.

``<lake>/_shoal/live/<id>.jsonl`` begins with who works at what, then has a line for each event. The
process holds a lock on it as long as it lives, so that a follower tells one that works from one
that was killed. A command that keeps going has rounds: those that find nothing new leave nothing,
and only the newest matters, so that its file stays small.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from shoal.workspace.feeds import FEED_ID, live_folder

if TYPE_CHECKING:
    from shoal.workspace.opened import Opened

__all__ = ["LIVE_ID", "live"]

# Names the feed that a process is to write, for whoever started it.
LIVE_ID = "SHOAL_LIVE_ID"
_KEPT = 100
_PAUSE = 0.1  # seconds between two lines on the progress of one thing
_NOTHING = {"unchanged", "current"}
_BRIEF = 1.0  # seconds that a round may work before it is told of
_LONG = 1_000_000  # bytes of a feed from which earlier rounds are forgotten

Event = Callable[[str, str, Any], None]


@contextlib.contextmanager
def live(space: Opened, command: str, names: Sequence[str] = ()) -> Iterator[None]:
    """Writes a feed of a workspace's events while open; one that cannot be written stops nothing.

    The event ``("round", "", number)`` begins a round.

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
        self._lock = threading.RLock()
        self._last: dict[tuple[str, str], float] = {}
        self._round: dict[str, Any] | None = None
        self._held: list[Mapping[str, Any]] | None = None
        self._timer: threading.Timer | None = None
        self._rows = self._busy = 0
        self._file: TextIO | None = None
        now = dt.datetime.now(dt.UTC)
        given = os.environ.get(LIVE_ID, "")
        name = given if FEED_ID.fullmatch(given) else f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            _prune(folder)
            self._file = (folder / f"{name}.jsonl").open("a", encoding="utf-8")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._start, self._head = now, {
            "command": command, "names": list(names), "at": now.isoformat(), "pid": os.getpid()
        }  # fmt: skip
        self._write(self._head)

    def _write(self, *lines: Mapping[str, Any]) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._file is not None:
                self._file.write("".join(json.dumps(line, default=str) + "\n" for line in lines))
                self._file.flush()

    def _began(self, number: int) -> None:
        """A round begins: until something happens in it, nothing of it is written."""
        now = dt.datetime.now(dt.UTC)
        with self._lock:
            self._wait(None)
            self._begun, self._last, self._held = time.monotonic(), {}, []
            self._round = {"number": number, "at": now.isoformat()}

    def _tell(self, line: Mapping[str, Any]) -> None:
        """Writes a line, or holds it back while the round may yet turn out to do nothing."""
        with self._lock:
            if self._held is None:
                self._write(line)
                return
            self._held.append(line)
            if line["state"] == "done" and line["report"].get("status") not in _NOTHING:
                self._let_go()
            elif self._timer is None:
                self._wait(_BRIEF)

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if seconds is not None:
            self._timer = threading.Timer(seconds, self._look)
            self._timer.daemon = True
            self._timer.start()

    def _look(self) -> None:
        """Tells of a round in which something works for a while already."""
        with self._lock:
            self._timer = None
            if self._held is None:
                return
            done = {(line["stage"], line["name"]) for line in self._held if "report" in line}
            works = [line for line in self._held if (line["stage"], line["name"]) not in done]
            if not works:
                return
            lasts = time.monotonic() - self._begun - works[0]["t"]
            if lasts >= _BRIEF:
                self._let_go()
            else:
                self._wait(_BRIEF - lasts)

    def _let_go(self) -> None:
        """Writes what was held back, and what follows in this round."""
        held, self._held = self._held or [], None
        self._wait(None)
        self._busy += 1
        begun = {"round": {**(self._round or {}), "busy": self._busy, "rows": self._rows}}
        with contextlib.suppress(OSError, ValueError):
            if self._file is not None and self._file.tell() > _LONG:
                self._file.truncate(0)  # opened to append: what is written next is its beginning
                self._write(self._head)
        self._write(begun, *held)

    def event(self, stage: str, name: str, value: Any) -> None:
        """Takes an event, and passes it on; see `Workspace`."""
        self._then(stage, name, value)
        if stage == "round":
            self._began(value)
            return
        at, key = time.monotonic() - self._begun, (stage, name)
        line: dict[str, Any] = {"t": round(at, 3), "stage": stage, "name": name}
        if is_dataclass(value) and not isinstance(value, type):
            report = asdict(value)
            self._tell(line | {"state": "done", "report": report})
            self._rows += int(report.get("rows") or 0) if stage == "table" else 0
            return
        if key not in self._last:
            self._tell(line | {"state": "start"})
        first, self._last[key] = key not in self._last, self._last.get(key, -1.0)
        done, total = value if isinstance(value, tuple) else (value, None)
        whole = isinstance(done, int) and done > 0
        if whole and (first or done == total or at - self._last[key] >= _PAUSE):
            self._last[key] = at
            self._tell(line | {"state": "progress", "done": done, "total": total})

    def end(self, status: str, error: str) -> None:
        """Says how it ended."""
        self._wait(None)
        worked = (dt.datetime.now(dt.UTC) - self._start).total_seconds()
        self._write({"t": round(worked, 3), "end": status, "error": error})
        if self._file is not None:
            with contextlib.suppress(OSError):  # on a full disk: what is left cannot be written
                self._file.close()


def _prune(folder: Path) -> None:
    """Leaves the newest feeds."""
    found = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    for path in found[:-_KEPT]:
        path.unlink(missing_ok=True)
        path.with_suffix(".log").unlink(missing_ok=True)

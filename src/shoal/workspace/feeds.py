"""The feeds that commands leave, as far as they are written; see `shoal.workspace.live`."""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

__all__ = ["FEED_ID", "Feed", "Round", "feeds", "live_folder", "read_feed"]

FEED_ID = re.compile(r"[0-9A-Za-z-]{8,60}")


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round of a command that keeps going, in which anything happened.

    Args:
        number: Which, from 1.
        at: When it began, UTC.
        busy: How many such rounds there were, with it.
        rows: Rows that those before it wrote to tables.
    """

    number: int
    at: dt.datetime
    busy: int
    rows: int

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> Round:
        """From its line."""
        return cls(**{**line, "at": dt.datetime.fromisoformat(line["at"])})


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
        lines: Its events, of its last round if it has rounds; each has ``t``, seconds since that
            began, ``stage``, ``name`` and ``state``: ``start``, ``progress`` or ``done``.
        error: Why it failed.
        seconds: How long it worked, as far as known.
        lapse: Seconds since the last round began; `seconds` without rounds.
        round: The last round in which anything happened; None without rounds.
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
    lapse: float
    round: Round | None

    @property
    def rows(self) -> int:
        """Rows that all rounds wrote to tables."""
        reports = [line["report"] for line in self.lines if "report" in line]
        own = sum(int(report.get("rows") or 0) for report in reports if "table" in report)
        return own + (self.round.rows if self.round else 0)

    @property
    def waiting(self) -> bool:
        """It has rounds, and the last one's work is done."""
        done = {(line["stage"], line["name"]) for line in self.lines if line["state"] == "done"}
        begun = {(line["stage"], line["name"]) for line in self.lines}
        return self.running and self.round is not None and begun == done


def live_folder(root: Path) -> Path:
    """Where a lake's feeds are."""
    return root / "_shoal" / "live"


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
    if not FEED_ID.fullmatch(name):
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
    begun = max((at for at, line in enumerate(rest) if "round" in line), default=None)
    last_round = None if begun is None else Round.read(rest[begun]["round"])
    rest = rest if begun is None else rest[begun + 1 :]
    ended = next((line for line in rest if "end" in line), None)
    status = str(ended["end"]) if ended else "running" if alive else "killed"
    reports = [line["report"] for line in rest if "report" in line]
    if status == "completed" and any(r.get("status") in {"failed", "skipped"} for r in reports):
        status = "failed"
    started = dt.datetime.fromisoformat(head["at"])
    now = dt.datetime.now(dt.UTC)
    last = float(rest[-1]["t"]) if rest else 0.0
    seconds = (now - started).total_seconds() if status == "running" else last
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
        seconds=seconds,
        lapse=seconds if last_round is None else (now - last_round.at).total_seconds(),
        round=last_round,
    )


def _held(file: TextIO) -> bool:
    """Whether a process holds the file's lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False

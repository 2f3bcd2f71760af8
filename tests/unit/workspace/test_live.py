"""What a command says of itself while it works, as a follower reads it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from shoal.workspace import live as lives
from shoal.workspace.feeds import Feed, feeds
from shoal.workspace.live import live


@dataclass
class Report:
    table: str
    status: str
    rows: int = 0


@pytest.fixture
def space(tmp_path: Path):
    return SimpleNamespace(project=SimpleNamespace(here=tmp_path), on_event=lambda *_: None)


def only(space) -> Feed:
    (feed,) = feeds(space.project.here)
    return feed


def told(feed: Feed) -> list[tuple[str, str]]:
    return [(line["name"], line["state"]) for line in feed.lines]


def refresh(space, name: str, status: str, rows: int = 0) -> None:
    space.on_event("table", name, "start")
    space.on_event("table", name, Report(name, status, rows))


def test_a_command_is_followed_while_it_works_and_after(space):
    with live(space, "run", ["gold.a"]):
        refresh(space, "gold.a", "refreshed", 7)
        feed = only(space)
        assert (feed.command, feed.names, feed.status) == ("run", ("gold.a",), "running")
        assert told(feed) == [("gold.a", "start"), ("gold.a", "done")]
        assert (feed.rows, feed.round, feed.waiting) == (7, None, False)
    assert only(space).status == "completed"


def test_rounds_without_work_leave_nothing(space):
    with live(space, "run --continuous"):
        for number in range(1, 50):
            space.on_event("round", "", number)
            refresh(space, "gold.a", "unchanged")
        feed = only(space)
        assert (feed.lines, feed.round, feed.status) == ((), None, "running")
    assert only(space).status == "completed"


def test_the_last_round_that_worked_is_shown_with_all_rows(space):
    with live(space, "run --continuous"):
        for number, rows in enumerate([10, 0, 5, 0], 1):
            space.on_event("round", "", number)
            refresh(space, "gold.a", "refreshed" if rows else "unchanged", rows)
            refresh(space, "gold.b", "unchanged")
        feed = only(space)
        assert feed.round is not None
        assert (feed.round.number, feed.round.busy, feed.rows) == (3, 2, 15)
        assert [name for name, state in told(feed) if state == "done"] == ["gold.a", "gold.b"]
        assert feed.waiting
        assert feed.lapse <= feed.seconds


def test_a_round_that_takes_its_time_is_told_before_it_ends(space, monkeypatch):
    monkeypatch.setattr(lives, "_BRIEF", 0.05)
    with live(space, "run --continuous"):
        space.on_event("round", "", 1)
        space.on_event("table", "gold.slow", "start")
        pause = threading.Event()
        for _ in range(400):
            if only(space).lines:
                break
            pause.wait(0.01)
        feed = only(space)
        assert told(feed) == [("gold.slow", "start")]
        assert not feed.waiting
        space.on_event("table", "gold.slow", Report("gold.slow", "refreshed", 3))
        assert only(space).waiting


def test_a_feed_of_many_rounds_stays_small(space, monkeypatch):
    monkeypatch.setattr(lives, "_LONG", 5_000)
    with live(space, "run --continuous", ["gold.a"]):
        for number in range(1, 200):
            space.on_event("round", "", number)
            refresh(space, "gold.a", "refreshed", 2)
        (path,) = (space.project.here / "_shoal/live").glob("*.jsonl")
        assert path.stat().st_size < 6_000
        feed = only(space)
        assert (feed.names, feed.rows) == (("gold.a",), 398)
        assert feed.round is not None
        assert feed.round.busy == 199
    assert only(space).status == "completed"


def test_an_interrupted_round_is_told_as_such(space):
    with pytest.raises(KeyboardInterrupt), live(space, "run --continuous"):
        space.on_event("round", "", 1)
        refresh(space, "gold.a", "refreshed", 2)
        raise KeyboardInterrupt
    assert only(space).status == "interrupted"

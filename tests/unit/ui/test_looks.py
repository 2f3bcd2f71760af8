"""An object store is asked in the background, and nobody waits for it twice."""

import threading

import pytest

from shoal.ui.looks import Looks


class Store:
    """Counts how often it is asked, and can be made to take its time or to fail."""

    def __init__(self) -> None:
        self.version = 0
        self.asked = 0
        self.open = threading.Event()
        self.open.set()
        self.answered = threading.Condition()
        self.error: Exception | None = None

    def ask(self) -> int:
        self.open.wait(30)
        with self.answered:
            self.asked += 1
            self.answered.notify_all()
        if self.error is not None:
            raise self.error
        return self.version

    def wait_until_asked(self, times: int) -> None:
        with self.answered:
            assert self.answered.wait_for(lambda: self.asked >= times, 30)


def settled(looks: Looks) -> None:
    """Until nothing is being asked."""
    looks._pool.submit(lambda: None).result(30)
    while looks._asking:
        threading.Event().wait(0.001)


def test_what_is_new_is_not_asked_again():
    store, looks = Store(), Looks(seconds=60)
    assert [looks.of("table", store.ask) for _ in range(3)] == [0, 0, 0]
    assert store.asked == 1


def test_an_old_answer_is_given_while_the_store_is_asked():
    store, looks = Store(), Looks(seconds=0)
    assert looks.of("table", store.ask) == 0
    store.version = 1
    store.open.clear()  # the store takes its time
    assert [looks.of("table", store.ask) for _ in range(5)] == [0] * 5
    store.open.set()
    store.wait_until_asked(2)
    settled(looks)
    assert looks.of("table", store.ask) == 1
    settled(looks)
    assert store.asked == 3  # of five that asked at once, one did


def test_what_was_changed_from_here_is_waited_for():
    store, looks = Store(), Looks(seconds=60)
    assert looks.of("table", store.ask) == 0
    store.version = 7
    looks.forget()
    assert looks.of("table", store.ask) == 7


def test_an_answer_from_before_a_change_comes_too_late():
    """It was asked for in the background, and the store answered after the change."""
    store, looks = Store(), Looks(seconds=0)
    assert looks.of("table", store.ask) == 0
    begun, go_on = threading.Event(), threading.Event()

    def slowly() -> int:
        version = store.version  # what the store saw when it was asked
        begun.set()
        assert go_on.wait(30)
        return version

    assert looks.of("table", slowly) == 0
    assert begun.wait(30)
    store.version = 5
    looks.forget()
    assert looks.of("table", store.ask) == 5
    go_on.set()
    settled(looks)
    looks._seconds = 60
    assert looks.of("table", store.ask) == 5


def test_a_store_that_fails_is_told_by_who_asks_next():
    store, looks = Store(), Looks(seconds=0)
    assert looks.of("table", store.ask) == 0
    store.error = OSError("no route")
    assert looks.of("table", store.ask) == 0
    store.wait_until_asked(2)
    settled(looks)
    with pytest.raises(OSError, match="no route"):
        looks.of("table", store.ask)

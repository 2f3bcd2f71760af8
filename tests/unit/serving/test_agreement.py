"""Processes that take up a new state at the same moment."""

import threading
import time
from pathlib import Path

from shoal.serving.agreement import Agreement


def swaps(folder: Path, states: list[str], pauses: list[float]) -> list[float]:
    """When each process took up its state; each is ready after its pause."""
    moments = [0.0] * len(states)

    def take(index: int) -> None:
        mine = Agreement(folder=folder, index=index, count=len(states))
        time.sleep(pauses[index])
        mine.wait(states[index])
        moments[index] = time.monotonic()

    threads = [threading.Thread(target=take, args=(i,)) for i in range(len(states))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return moments


def test_all_wait_for_the_last_one(tmp_path: Path) -> None:
    begun = time.monotonic()
    moments = swaps(tmp_path / "swaps", ["a"] * 3, [0.0, 0.1, 0.3])
    named = float((tmp_path / "swaps" / "go-1.txt").read_text())
    assert min(moments) >= named >= begun + 0.3
    again = swaps(tmp_path / "swaps", ["b"] * 3, [0.2, 0.0, 0.0])
    assert min(again) >= float((tmp_path / "swaps" / "go-2.txt").read_text())


def test_one_that_is_not_ready_holds_nobody_up_for_long(tmp_path: Path) -> None:
    begun = time.monotonic()
    alone = Agreement(folder=tmp_path / "swaps", index=0, count=2)
    alone.wait("a")
    late = Agreement(folder=tmp_path / "swaps", index=1, count=2)
    assert time.monotonic() - begun >= 1.0
    late.wait("b")  # in the next round, alone again
    assert (tmp_path / "swaps" / "go-2.txt").exists()

"""When several processes take up what the registry says: all at the same moment.

Each process opens the new versions by itself and says that it is ready, in a file of a folder
that all share. The last one names a moment, a little later on the clock that all processes of a
machine share, and each swaps then. A process that is not ready in time does not hold up the
others for longer than a second.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Agreement"]

_LEAD = 0.03  # between the naming of the moment and the moment, in seconds
_PATIENCE = 1.0
_LOOK = 0.005


@dataclass(kw_only=True)
class Agreement:
    """One process's part in it.

    Args:
        folder: Shared by the processes.
        index: This process's number, from 0.
        count: How many processes there are.
    """

    folder: Path
    index: int
    count: int

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        # A process that took another's place goes on from where the others are.
        self._round = max((int(p.stem[3:]) for p in self.folder.glob("go-*.txt")), default=0)

    def wait(self, state: str) -> None:
        """Returns at the moment at which all processes take up a state.

        Args:
            state: What is to be taken up; processes that saw another one agree on nothing with
                this one, and it goes on alone.
        """
        self._round += 1
        self._write(f"ready-{self.index}.txt", f"{self._round} {state}")
        end = time.monotonic() + _PATIENCE
        moment = None
        while moment is None:
            moment = self._moment()
            if moment is None and (self._all_ready(state) or time.monotonic() > end):
                self._name(time.monotonic() + _LEAD)
            elif moment is None:
                time.sleep(_LOOK)
        while (left := moment - time.monotonic()) > 0:
            time.sleep(left)

    def _all_ready(self, state: str) -> bool:
        said = f"{self._round} {state}"
        files = (self.folder / f"ready-{index}.txt" for index in range(self.count))
        return all(_read(file) == said for file in files)

    def _moment(self) -> float | None:
        said = _read(self.folder / f"go-{self._round}.txt")
        return float(said) if said else None

    def _name(self, moment: float) -> None:
        """The first to name a moment names it for all."""
        part = self._write(f"go-{self.index}.part", f"{moment!r}", keep=True)
        try:
            os.link(part, self.folder / f"go-{self._round}.txt")
        except FileExistsError:
            return
        finally:
            part.unlink()

    def _write(self, name: str, text: str, *, keep: bool = False) -> Path:
        """Whole or not at all."""
        part = self.folder / f"{name}.{self.index}"
        part.write_text(text)
        return part if keep else part.replace(self.folder / name)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""

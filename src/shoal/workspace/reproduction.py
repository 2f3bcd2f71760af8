"""What a reproduction tells, and the code of a run as it was."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import TrackingError

if TYPE_CHECKING:
    from shoal.workspace.workspace import Workspace

__all__ = ["Reproduction", "checked_out", "keep_receipt"]


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What a training once more showed.

    Attributes:
        model: The version, as ``models:/delay/7``.
        run_id: Its run.
        table: What it was trained on, as ``gold.delay_features@12``.
        verdicts: Members (of a script: what it logged) by verdict: ``identical`` (stored bytes and
            metric), ``equal`` (within the tolerance), ``different`` or ``gone`` (its data cannot be
            read).
        difference: The largest relative difference of predictions of members that are not
            identical; None where there is none to tell.
        causes: What may be why, the first the likeliest; empty when all are identical.
        different: Up to 20 members that are different, by segment.
        environment: ``same``, or ``rebuilt``, or what differs from the recorded one.
        code: Where the code came from: the commit, with a patch or not, or the kept files.
        seconds: How long it took.
    """

    model: str
    run_id: str
    table: str
    verdicts: Mapping[str, int]
    difference: float | None
    causes: tuple[str, ...]
    different: tuple[str, ...]
    environment: str
    code: str
    seconds: float = field(compare=False)

    @property
    def proven(self) -> bool:
        """Whether every member is identical, or equal within the tolerance."""
        return not self.verdicts.get("different") and not self.verdicts.get("gone")


@contextlib.contextmanager
def checked_out(
    root: Path, kept: Path, about: Mapping[str, Any], folder: Path
) -> Iterator[tuple[Path, str]]:
    """The project as it was, in a folder of its own, and where it came from."""
    from shoal.tracking.code import git

    place = folder / "code"
    if (kept / "code.zip").is_file():
        with zipfile.ZipFile(kept / "code.zip") as archive:
            for member in archive.namelist():
                if not (place / member).resolve().is_relative_to(place.resolve()):
                    raise TrackingError(f"The kept code names a file outside of it: {member}.")
            archive.extractall(place)
        yield place, "the files that the run kept"
        return
    commit = about.get("commit")
    if commit is None or about["kept"] not in ("commit", "patch"):
        raise TrackingError(
            f"The run kept no code: {about['kept']}.", hint="commit the code, and train again"
        )
    if git(root, "worktree", "add", "--detach", "--force", str(place), commit) is None:
        raise TrackingError(
            f"The commit {commit[:12]} is not in the repository of {root}.",
            hint="fetch it: git fetch --all",
        )
    try:
        said = f"commit {commit[:12]}"
        if (kept / "code.patch").is_file():
            if git(place, "apply", "--whitespace=nowarn", str(kept / "code.patch")) is None:
                raise TrackingError(f"The kept changes do not fit commit {commit[:12]}.")
            said += " and the uncommitted changes of the run"
        yield place / about["folder"], said
    finally:
        git(root, "worktree", "remove", "--force", str(place))


def keep_receipt(space: Workspace, found: Reproduction) -> None:
    """Adds a reproduction to its run, as a document and a tag."""
    now = dt.datetime.now(dt.UTC)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(found.verdicts.items()))
    space.tracker.receive(
        found.run_id,
        f"reproductions/{now:%Y%m%dT%H%M%S%f}.json",
        json.dumps({"at": now.isoformat(), **asdict(found)}, indent=1),
        {"shoal.reproduced": f"{now:%Y-%m-%d %H:%M} UTC: {counts}"[:5000]},
    )

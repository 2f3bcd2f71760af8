"""Which version of each table was made of which versions and files, as the tables' logs tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shoal.lake import commits, files_read

if TYPE_CHECKING:
    from shoal.lake import Lake, Table

__all__ = ["Made", "Provenance"]

_FLOW = "shoal:"


@dataclass(frozen=True, kw_only=True)
class Made:
    """How one version of a table came to be.

    Args:
        version: The version.
        inputs: The version of each input table that it saw; empty when it changed no flow.
        whole: It replaced all rows.
        back: The version that it restored; None when it is no restore.
        files: Input files that its flows knew: file to whether this version was the first.
    """

    version: int
    inputs: Mapping[str, int] = field(default_factory=dict)
    whole: bool = False
    back: int | None = None
    files: Mapping[str, bool] = field(default_factory=dict)


class Provenance:
    """The lake's tables, version by version.

    Args:
        lake: The lake.
    """

    def __init__(self, lake: Lake) -> None:
        self.tables = {table.name: table for table in lake.tables()}

    @cached_property
    def made(self) -> dict[str, list[Made]]:
        """Table to its versions, ascending, as far back as its log goes."""
        return {name: _made(table) for name, table in self.tables.items()}

    def at(self, table: str, version: int) -> Made | None:
        """The newest version up to one that was made of inputs; None when the log has none."""
        for made in reversed(self.made.get(table, ())):
            if made.version <= version and made.back is not None:
                return self.at(table, made.back)
            if made.version <= version and (made.inputs or made.files):
                return made
        return None

    def tainted(self, roots: Mapping[str, Iterable[int]]) -> dict[str, dict[int, frozenset[int]]]:
        """The versions that took some versions in, directly or through other tables.

        A version takes in what its input gained since the version before. One that is made of
        several tables also counts when an earlier part of one of them is bad: what came later may
        be joined with it.

        Args:
            roots: Table to its bad versions.

        Returns:
            Table to version to the bad versions whose rows it still has; it and they are numbers
            of that table. Restores, and full refreshes from clean inputs, take rows away.
        """
        found = {name: set(versions) for name, versions in roots.items()}
        while True:
            live = {name: self._live(name, bad) for name, bad in found.items()}
            before = sum(map(len, found.values()))
            for name, versions in self.made.items():
                seen: dict[str, int] = {}
                for made in versions:
                    if self._takes(made, seen, live):
                        found.setdefault(name, set()).add(made.version)
                    seen |= made.inputs
            if sum(map(len, found.values())) == before:
                return {name: per for name, per in live.items() if any(per.values())}

    @staticmethod
    def _takes(
        made: Made, seen: Mapping[str, int], live: Mapping[str, Mapping[int, frozenset[int]]]
    ) -> bool:
        for name, version in made.inputs.items():
            bad = live.get(name, {}).get(version, frozenset())
            since = -1 if made.whole or len(made.inputs) > 1 else seen.get(name, -1)
            if any(since < number for number in bad):
                return True
        return False

    def _live(self, name: str, bad: Iterable[int]) -> dict[int, frozenset[int]]:
        here, marked = frozenset[int](), frozenset(bad)
        found: dict[int, frozenset[int]] = {}
        for made in self.made.get(name, ()):
            if made.back is not None:
                here = found.get(made.back, frozenset())
            elif made.whole and made.version not in marked:
                here = frozenset()
            if made.version in marked:
                here |= {made.version}
            found[made.version] = here
        return found


def _made(table: Table) -> list[Made]:
    found: list[Made] = []
    documents: dict[str, dict[int, int]] = {}
    for version, actions in commits(table.path):
        info: dict[str, Any] = next((a["commitInfo"] for a in actions if "commitInfo" in a), {})
        asked = info.get("operationParameters") or {}
        back = asked.get("version") if info.get("operation") == "RESTORE" else None
        found.append(
            Made(
                version=version,
                inputs=_inputs(info.get("shoal.inputs") or ""),
                whole=info.get("shoal.refresh") == "full" or asked.get("mode") == "Overwrite",
                back=None if back is None else int(back),
            )
        )
        for action in actions:
            application = action.get("txn", {}).get("appId", "")
            if application.startswith(_FLOW):
                numbers = documents.setdefault(application.removeprefix(_FLOW), {})
                numbers.setdefault(action["txn"]["version"], version)
    files: dict[int, dict[str, bool]] = {}
    for flow, numbers in documents.items():
        for number, known in files_read(table.path, flow, sorted(numbers)).items():
            files.setdefault(numbers[number], {}).update(known)
    return [
        made
        if made.version not in files
        else Made(
            version=made.version,
            inputs=made.inputs,
            whole=made.whole,
            back=made.back,
            files=files[made.version],
        )
        for made in found
    ]


def _inputs(text: str) -> dict[str, int]:
    pairs = (part.strip().rpartition("@") for part in text.split(",") if part.strip())
    return {name: int(version) for name, _, version in pairs}

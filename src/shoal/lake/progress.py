"""How far a flow has come, kept so that it can never disagree with the table.

A flow's progress is a small JSON document (which files it has read, which source versions). It is
written beside the table's log as ``_shoal/<flow>/<n>.json`` *before* the commit; the commit's Delta
application transaction ``(shoal:<flow>, n)`` then says that document ``n`` is the true one. A
crash between the two leaves a document that nothing points at. It is never written again: it may be
that of a writer elsewhere who is about to commit it, so the next attempt takes the next number.
Source: Delta protocol, "Transaction Identifiers".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from shoal.errors import TableError
from shoal.store import Store, open_store

__all__ = ["Progress", "files_read"]

# A document holds what is new since the one before; every so many a whole one bounds the reading.
_SNAPSHOT_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One flow's progress in one table.

    Args:
        flow: The flow's name.
        number: Which document this is; -1 before the first.
        files: Input files already read: path to ``[size, modification time in ns]``.
        versions: Delta sources: table name to ``[table id, version]``.
        definition: Fingerprint of the query that wrote the table last.
        offsets: Message sources: topic to partition to the next offset to read.
        schemas: File sources whose columns were found, not declared: source to its schema.
        state: Name of the folder beside this document with the rows that the flow needs to go on
            from here (see `Table.new_state`); None when it needs none.
        described: The texts of the definition, by what they are; for people.
    """

    flow: str
    number: int = -1
    files: Mapping[str, list[int]] = field(default_factory=dict)
    versions: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    definition: str | None = None
    offsets: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    schemas: Mapping[str, str] = field(default_factory=dict)
    state: str | None = None
    described: Mapping[str, str] = field(default_factory=dict)

    @property
    def application(self) -> str:
        """The Delta application id under which the number is committed."""
        return f"shoal:{self.flow}"


def flow_folder(flow: str) -> str:
    """Where a flow's documents and state lie, below the table."""
    return f"_shoal/{quote(flow, safe='')}"


def _document(flow: str, number: int) -> str:
    return f"{flow_folder(flow)}/{number:012}.json"


def _load(store: Store, flow: str, number: int) -> dict[str, Any]:
    name = _document(flow, number)
    try:
        document: dict[str, Any] = json.loads(store.read(name))
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise TableError(
            f"The progress of flow '{flow}' is damaged: {store.path(name)} cannot be read "
            f"({error}).",
            hint="Rebuild the table from its sources: shoal run --full-refresh TABLE",
        ) from error
    return document


def read_progress(store: Store, flow: str, number: int | None) -> Progress:
    """The progress that the transaction number names; empty when the flow never committed.

    Raises:
        TableError: The table says that document ``number`` exists, and it does not.
    """
    if number is None:
        return Progress(flow=flow)
    chain: list[dict[str, Any]] = []
    at = number
    while True:
        chain.append(_load(store, flow, at))
        if chain[-1]["whole"]:
            break
        at = chain[-1].get("after", at - 1)
    files: dict[str, list[int]] = {}
    for part in reversed(chain):
        files.update(part["files"])
    newest = chain[0]
    return Progress(
        flow=flow,
        number=number,
        files=files,
        versions={name: (value[0], value[1]) for name, value in newest["versions"].items()},
        definition=newest["definition"],
        offsets=newest.get("offsets", {}),
        schemas=newest.get("schemas", {}),
        state=newest.get("state"),
        described=next((part["described"] for part in chain if "described" in part), {}),
    )


def files_read(table_path: str, flow: str, numbers: Sequence[int]) -> dict[int, dict[str, bool]]:
    """The input files that each of some documents of a flow knows.

    Args:
        table_path: The table's folder or URL.
        flow: The flow.
        numbers: Numbers of documents, ascending.

    Returns:
        Number to file to whether it is new in that document. A document that is gone is left out.
    """
    store = open_store(table_path)
    known: dict[str, list[int]] = {}
    found: dict[int, dict[str, bool]] = {}
    for number in numbers:
        try:
            document = _load(store, flow, number)
        except TableError:
            continue
        now = document["files"] if document["whole"] else known | document["files"]
        found[number] = {path: known.get(path) != mark for path, mark in now.items()}
        known = now
    return found


def needed_documents(
    store: Store, flow: str, number: int | None
) -> tuple[frozenset[str], str | None]:
    """The documents that document ``number`` is read from, and the name of its state.

    Raises:
        TableError: One of them cannot be read.
    """
    if number is None:
        return frozenset(), None
    at, found = number, []
    newest = document = _load(store, flow, at)
    while True:
        found.append(_document(flow, at))
        if document["whole"]:
            break
        at = document.get("after", at - 1)
        document = _load(store, flow, at)
    return frozenset(found), newest.get("state")


def write_progress(store: Store, before: Progress, after: Progress) -> Progress:
    """Writes the progress durably, before the commit that will point at it.

    Returns:
        ``after`` with the number of its document: the first free one from its own number on.
    """
    whole = (
        not before.files  # nothing to add to, or started afresh: older documents do not count
        or after.number != before.number + 1
        or any(path not in after.files for path in before.files)
    )
    while True:
        full = whole or after.number // _SNAPSHOT_EVERY != before.number // _SNAPSHOT_EVERY
        text = json.dumps(_as_json(before, after, whole=full))
        try:
            store.create(_document(after.flow, after.number), text.encode())
        except FileExistsError:
            after = replace(after, number=after.number + 1)
        else:
            return after


def _as_json(before: Progress, after: Progress, *, whole: bool) -> dict[str, Any]:
    files = (
        after.files
        if whole
        else {path: mark for path, mark in after.files.items() if before.files.get(path) != mark}
    )
    document = {
        "whole": whole,
        "after": before.number,
        "files": dict(files),
        "versions": {name: list(value) for name, value in after.versions.items()},
        "definition": after.definition,
        "offsets": {topic: dict(ends) for topic, ends in after.offsets.items()},
        "schemas": dict(after.schemas),
        "state": after.state,
    }
    if whole or after.described != before.described:
        document["described"] = dict(after.described)
    return document

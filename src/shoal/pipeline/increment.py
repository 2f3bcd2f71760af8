"""Materialized views that follow the changes of their inputs instead of being computed again.

A view of the form ``U(G(Q(t)), ...)`` with a grouping ``G`` over a query ``Q`` that is linear in
the changed table (see `shoal.engines.linear`) keeps the state of ``G`` (`shoal.pipeline.groups`)
beside its progress. A refresh adds the state of ``Q`` over the files that new versions added,
takes away that of the files they removed, and computes ``U`` again over the groups. A view that is
itself linear gets the rows that its query gives for the added files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.engines import (
    MARK,
    Algebra,
    TableRead,
    dataframe,
    engine_path,
    marks,
    plan_of,
    put,
    version_relation,
)
from shoal.lake import AddedFile, Changes, TableName, last_writers
from shoal.pipeline.frames import Built, Place, given, pinned
from shoal.pipeline.groups import finished, merged, partial, subtractable
from shoal.pipeline.inputs import files_relation
from shoal.pipeline.kinds import seen_through
from shoal.store import path_in

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.connect.proto import Relation

    from shoal.engines import Shape
    from shoal.lake import Lake, Progress, Table
    from shoal.pipeline.work import Input

__all__ = ["Increment", "build", "following", "follows"]

_FORMAT = 1
_MOST_TERMS = 4  # each changed read is one more pass over the other inputs


@dataclass(frozen=True, kw_only=True)
class Increment:
    """How a view goes on.

    Args:
        changes: What came to its inputs since it was computed; None computes it in full and keeps
            what is needed to follow later changes.
    """

    changes: Mapping[TableName, Changes] | None = None

    @property
    def rows(self) -> int:
        """Rows that were added or removed."""
        found = (self.changes or {}).values()
        return sum(file.rows or 0 for c in found for file in (*c.files, *c.removed))

    @property
    def files(self) -> int:
        """Files that were added or removed."""
        return sum(len(c.files) + len(c.removed) for c in (self.changes or {}).values())


def following(
    table: Table, before: Progress, inputs: Mapping[TableName, Input], lake: Lake
) -> Increment:
    """How a view whose definition and input files are unchanged goes on; decided from logs alone.

    Args:
        table: The view's table.
        before: Its progress.
        inputs: Its pinned input tables.
        lake: Where they are.
    """
    if set(before.versions) != {str(name) for name in inputs}:
        return Increment()
    changes: dict[TableName, Changes] = {}
    for name, now in inputs.items():
        identity, version = before.versions[str(name)]
        if identity != now.id or version > now.version:
            return Increment()
        if version < now.version:
            found = _net(lake.table(name), version, now.version)
            if found is None:
                return Increment()
            changes[name] = found
    moved = {name: found for name, found in changes.items() if found.files or found.removed}
    followed = not moved or _followed(table, before, moved, inputs, lake)
    return Increment(changes=changes if followed else None)


def _followed(
    table: Table,
    before: Progress,
    moved: Mapping[TableName, Changes],
    inputs: Mapping[TableName, Input],
    lake: Lake,
) -> bool:
    """Whether the view kept what it needs to follow these changes, and that is the cheaper way."""
    state = _state(table, before)
    if state is None or not follows(table, before, moved):
        return False
    if state["mode"] == "rows" and not _own(table, before):
        return False
    if not state["removes"] and any(found.removed for found in moved.values()):
        return False
    for name, found in moved.items():
        total, _, _ = lake.table(name).size(inputs[name].version)
        if 2 * sum(file.rows or 0 for file in (*found.files, *found.removed)) > total:
            return False  # computing it again reads less
    return True


def follows(table: Table, before: Progress, names: Iterable[TableName]) -> bool:
    """Whether the view kept what it needs to follow new rows of these tables."""
    state = _state(table, before)
    return state is not None and {str(name) for name in names} <= set(state["follows"])


def _state(table: Table, before: Progress) -> dict[str, Any] | None:
    if before.state is None:
        return None
    try:
        text = table.store.read(
            table.store.name(_note(table.state_path(before.flow, before.state)))
        )
        found: dict[str, Any] = json.loads(text)
    except (OSError, ValueError):
        return None
    return found if found.get("format") == _FORMAT else None


def _note(state: str) -> str:
    """Where it is written what a state is."""
    return path_in(state, "state.json")


def _own(table: Table, before: Progress) -> bool:
    """Whether the table holds just what the flow committed: nobody else changed its rows."""
    writer = last_writers(table.path)
    return writer is not None and before.application in writer[1]


def _net(source: Table, after: int, until: int) -> Changes | None:
    """The files that differ between two versions; None when their rows cannot be read alone."""
    from shoal.errors import TableError

    try:
        found = source.changes(after=after, until=until)
        same = source.schema(after) == source.schema(until)
    except TableError:
        return None
    added = {file.path: file for file in found.files}
    gone = {file.path: file for file in found.removed}
    files = tuple(file for path, file in added.items() if path not in gone)
    removed = tuple(file for path, file in gone.items() if path not in added)
    parts = set(source.partitions())
    readable = all(not file.vector and set(file.partition) == parts for file in (*files, *removed))
    if not same or not readable or source.gone(file.path for file in (*files, *removed)):
        return None
    return Changes(files=files, rewrites=found.rewrites, removed=removed)


def build(place: Place) -> Built:
    """The rows of a view, by following its inputs' changes where that is possible."""
    view = _View(place)
    increment = place.work.increment
    if increment is not None and increment.changes is not None and not place.full:
        built = view.follow(increment.changes)
        if built is not None:
            return built
    return view.compute()


class _View:
    """A view's query, taken apart, at the versions of this run."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.spark = place.engine.spark
        plan = seen_through(place.work.query, place.graph, place.lake)
        self.algebra = Algebra.of(plan, self.spark, lambda read: given(read, place))
        self.now = [given(read, place) for read in self.algebra.reads]
        self.name, self.path = place.table.new_state(
            place.work.before.flow, place.work.before.number + 1
        )

    def compute(self) -> Built:
        """The view in full, with the state to follow from here."""
        groupings = self.algebra.groupings
        if groupings:
            states = [partial(g, self.filled(g.rows), self.spark) for g in groupings]
            if all(state is not None for state in states):
                return self.kept([state for state in states if state is not None])
        elif self.algebra.shape.linear:
            follows = self.follows([(set(range(len(self.now))), self.algebra.shape)])
            if follows:
                self.note(mode="rows", follows=follows, removes=False)
                return Built(frame=pinned(self.place), overwrite=True, state=self.name)
        return Built(frame=pinned(self.place), overwrite=True)

    def follow(self, changes: Mapping[TableName, Changes]) -> Built | None:
        """The view after its inputs' changes; None when it must be computed in full."""
        table, before = self.place.table, self.place.work.before
        state = _state(table, before)
        if state is None or state["taken"] != self.algebra.fingerprint():
            return None
        changed = {
            index: changes[name]
            for index, name in enumerate(map(self.table_name, self.algebra.reads))
            if name is not None and name in changes
            if changes[name].files or changes[name].removed
        }
        if state["mode"] == "rows":
            terms = self.terms(self.algebra.plan.root, self.algebra.shape, changed)
            if terms is None or terms[1]:
                return None
            frames = [self.frame(term) for term in terms[0]]
            frame = frames[0] if frames else pinned(self.place).limit(0)
            for other in frames[1:]:
                frame = frame.unionAll(other)
            self.note(mode="rows", follows=state["follows"], removes=False)
            return Built(frame=frame, overwrite=False, state=self.name)
        old = table.state_path(before.flow, before.state or "")
        states = []
        for index, grouping in enumerate(self.algebra.groupings):
            kept = self.spark.read.parquet(engine_path(path_in(old, f"group-{index}"), self.spark))
            mine = {r: c for r, c in changed.items() if r in marks(grouping.rows)}
            terms = self.terms(grouping.rows, grouping.shape, mine)
            if terms is None:
                return None
            plus, minus = ([partial(grouping, t, self.spark) for t in side] for side in terms)
            if None in plus or None in minus:
                return None
            states.append(
                merged(grouping, kept, [p for p in plus if p], [m for m in minus if m])
                if plus or minus
                else kept
            )
        return self.kept(states)

    def kept(self, states: Sequence[DataFrame]) -> Built:
        """Writes the states, and makes the view from them."""
        groups = []
        removes = True
        positions = []
        for index, (grouping, state) in enumerate(zip(self.algebra.groupings, states, strict=True)):
            folder = engine_path(f"{self.path}/group-{index}", self.spark)
            state.write.parquet(folder)
            stored = self.spark.read.schema(state.schema).parquet(folder)
            like = self.frame(self.filled(grouping.relation)).schema
            groups.append(plan_of(finished(grouping, stored, like)).root)
            removes &= subtractable(grouping, state.schema)
            positions.append((marks(grouping.rows), grouping.shape))
        frame = self.frame(self.filled(self.algebra.with_groups(groups)))
        wanted = pinned(self.place).schema
        self.note(mode="groups", follows=self.follows(positions), removes=removes)
        frame = frame.toDF(*wanted.fieldNames())  # SQL names a column by its text where it has none
        return Built(frame=frame, overwrite=True, state=self.name)

    def terms(
        self, relation: Relation, shape: Shape, changed: Mapping[int, Changes]
    ) -> tuple[list[Relation], list[Relation]] | None:
        """What the changes add to a relation's rows, and what they take away.

        One term for each changed read, which stands for its changed rows there, while those before
        it are as they were and those after it as they are now.
        """
        if len(changed) > _MOST_TERMS or any(read not in shape.linear for read in changed):
            return None
        plus: list[Relation] = []
        minus: list[Relation] = []
        for read, found in changed.items():
            over: dict[int, Relation] = {r: self.empty(r) for r in shape.linear[read]}
            over |= {r: self.old(r) for r in changed if r < read and r not in over}
            for files, side in ((found.files, plus), (found.removed, minus)):
                if files:
                    side.append(self.filled(relation, {**over, read: self.rows(read, files)}))
        return plus, minus

    def table_name(self, read: object) -> TableName | None:
        """The table that a read names."""
        return self.place.lake.name(read.name) if isinstance(read, TableRead) else None

    def filled(self, relation: Relation, over: Mapping[int, Relation] | None = None) -> Relation:
        """A relation with real rows in the place of its numbered reads."""
        rows = {**dict(enumerate(self.now)), **(over or {})}
        return put(relation, {f"{MARK}{read}": found for read, found in rows.items()})

    def frame(self, relation: Relation) -> DataFrame:
        """A DataFrame over a relation."""
        from pyspark.sql.connect.proto import Plan

        return dataframe(Plan(root=relation), self.spark)

    def rows(self, read: int, files: Sequence[AddedFile]) -> Relation:
        """The rows of some files of the table that a read names."""
        name = self.table_name(self.algebra.reads[read])
        assert name is not None
        version = self.place.work.tables[name].version
        return files_relation(self.place.lake.table(name), version, files, self.spark)

    def old(self, read: int) -> Relation:
        """The table that a read names as the view saw it last."""
        name = self.table_name(self.algebra.reads[read])
        assert name is not None
        version = self.place.work.before.versions[str(name)][1]
        return version_relation(self.place.lake.table(name).path, version)

    def empty(self, read: int) -> Relation:
        """No rows, with the columns that a read has."""
        return plan_of(self.frame(self.now[read]).limit(0)).root

    def follows(self, positions: Sequence[tuple[set[int], Shape]]) -> list[str]:
        """The tables whose changes can be followed wherever they are read below a grouping."""
        names: set[str] = set()
        refused: set[str] = set()
        for read, name in enumerate(map(self.table_name, self.algebra.reads)):
            given = self.algebra.reads[read]
            if isinstance(given, TableRead) and given.options:  # another version, or the changes
                refused.add(str(name))
            for inside, shape in positions:
                if name is not None and read in inside:
                    (names if read in shape.linear else refused).add(str(name))
            if name is not None and not any(read in inside for inside, _ in positions):
                names.add(str(name))
        return sorted(names - refused)

    def note(self, *, mode: str, follows: Sequence[str], removes: bool) -> None:
        """Writes what the state is."""
        text = json.dumps(
            {
                "format": _FORMAT,
                "taken": self.algebra.fingerprint(),
                "mode": mode,
                "follows": list(follows),
                "removes": removes,
            }
        )
        store = self.place.table.store
        store.write(store.name(_note(self.path)), text.encode())

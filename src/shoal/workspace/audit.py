"""The audit table of aliases: who moved which one, when, from where to where, why, on what.

A move is one commit to ``shoal.promotions``, numbered per model and alias by a Delta application
transaction, so of two that begin at the same number one wins. Only then is MLflow's alias moved,
and a tag of the registered model says which number it has reached. A process that dies between
the two leaves a number without its tag: the next one that looks finishes the move.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shoal.errors import Conflict, TableError, TrackingError

if TYPE_CHECKING:
    from shoal.lake import Lake
    from shoal.tracking import Tracker

__all__ = ["TABLE", "Audit", "Move"]

TABLE = "shoal.promotions"

# Kinds of moves that a person decided, and that no training takes back by itself.
_DECIDED = frozenset({"promote", "rollback"})

# Commits after which the table's small files are put together.
_COMPACTED = 64

# Names that MLflow keeps: v1, v2, ... and latest.
_ALIAS = re.compile(r"(?!v\d+\Z)(?!latest\Z)[\w-]{1,255}", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move of an alias.

    Attributes:
        model: Registered model.
        alias: The alias.
        number: 1 for the first move of this alias, then counting up.
        before: Where it pointed; None when it was new.
        version: Where it points since.
        kind: ``train``, ``promote``, ``rollback``, or ``outside`` when another tool moved it.
        segments: Keys of the only segments whose members changed; empty for the whole fleet.
        why: What the person said.
        evaluation: Id of the evaluation that it rests on.
        evidence: Metrics and the gate's words.
        user: Who.
        at: When, UTC.
    """

    model: str
    alias: str
    number: int
    before: int | None
    version: int
    kind: str
    segments: tuple[str, ...] = ()
    why: str = ""
    evaluation: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    user: str = ""
    at: dt.datetime | None = None


class Audit:
    """The moves of aliases of one lake and one registry.

    Args:
        lake: Where ``shoal.promotions`` is.
        tracker: Where the aliases are.
    """

    def __init__(self, lake: Lake, tracker: Tracker) -> None:
        self._table = lake.table(TABLE)
        self._tracker = tracker

    def moves(self, model: str, alias: str | None = None) -> list[Move]:
        """The moves of a model's aliases, the oldest first.

        A move that another tool made since is the last one, with kind ``outside``. A move whose
        process died is finished now.

        Raises:
            TrackingError: No model has that name.
        """
        (pointers,) = self._tracker.pointers(model)
        found = self._read(model, alias)
        last = {move.alias: move for move in found}
        for name, move in last.items():
            now = pointers.aliases.get(name)
            if _reached(pointers.tags, name) < move.number:
                self._point(move)
            elif now is not None and now != move.version:
                found.append(
                    Move(
                        model=model,
                        alias=name,
                        number=move.number,
                        before=move.version,
                        version=now,
                        kind="outside",
                    )
                )
        return found

    def decided(self, model: str, alias: str = "champion") -> bool:
        """Whether a promotion or rollback, and no training, put the alias where it is."""
        if not self._table.exists():
            return False
        moves = self._read(model, alias)
        return bool(moves) and moves[-1].kind in _DECIDED

    def before(self, model: str, alias: str = "champion") -> list[int]:
        """The versions that an alias pointed at, the present one last.

        A rollback takes those away that came after the version it went to.
        """
        trail: list[int] = []
        for move in self.moves(model, alias):
            if move.before is not None and (not trail or trail[-1] != move.before):
                trail.append(move.before)
            if move.kind == "rollback" and not move.segments and move.version in trail:
                del trail[len(trail) - trail[::-1].index(move.version) :]
            else:
                trail.append(move.version)
        return trail

    def move(
        self,
        model: str,
        alias: str,
        version: int,
        *,
        kind: str,
        expected: int | None = None,
        segments: Sequence[str] = (),
        why: str = "",
        evaluation: str | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Move:
        """Moves an alias, and takes it down.

        Args:
            model: Registered model.
            alias: The alias.
            version: Where to.
            kind: See `Move`.
            expected: Where it must point now; None for anywhere.
            segments: See `Move`.
            why: See `Move`.
            evaluation: See `Move`.
            evidence: See `Move`.

        Raises:
            TrackingError: There is no such version, or MLflow allows no such alias.
            Conflict: Another one moved the alias first; nothing was changed.
        """
        from shoal.tracking import user_name

        if not _ALIAS.fullmatch(alias):
            raise TrackingError(
                f"'{alias}' cannot be an alias: it is letters, digits, - and _, and no version.",
                hint="Such as champion, challenger or staging.",
            )
        number = self._number(model, alias)
        (pointers,) = self._tracker.pointers(model)
        if _reached(pointers.tags, alias) < number:
            self._point(self._move(model, alias, number))
            (pointers,) = self._tracker.pointers(model)
        before = pointers.aliases.get(alias)
        if expected is not None and before != expected:
            raise Conflict(
                f"The {alias} of '{model}' is version {before} now; this began when it was "
                f"{expected}. Another promotion was faster, and nothing was changed.",
                hint=f"shoal history {model}",
            )
        self._tracker.resolve(f"{model}/{version}")
        made = Move(
            model=model,
            alias=alias,
            number=number + 1,
            before=before,
            version=version,
            kind=kind,
            segments=tuple(segments),
            why=why,
            evaluation=evaluation,
            evidence=dict(evidence or {}),
            user=user_name(),
            at=dt.datetime.now(dt.UTC),
        )
        try:
            commit = self._table.append(_rows(made), app=(_application(model, alias), number + 1))
        except Conflict as error:
            raise Conflict(
                f"Another promotion moved the {alias} of '{model}' at the same moment; this one "
                "changed nothing.",
                hint=f"shoal history {model}",
            ) from error
        self._point(made)
        if commit % _COMPACTED == 0:
            from shoal.lake import optimize

            with contextlib.suppress(Conflict, TableError):
                optimize(self._table)
        return made

    def _number(self, model: str, alias: str) -> int:
        return self._table.transaction(_application(model, alias)) or 0

    def _point(self, move: Move) -> None:
        """Moves MLflow's alias; when another move came meanwhile, to where that one wants it."""
        while True:
            tag = (_tag(move.alias), str(move.number))
            try:
                self._tracker.point_alias(move.model, move.alias, move.version, tag=tag)
            except TrackingError:
                if self._tracker.version(move.model, move.version) is not None:
                    raise
                self._tracker.set_tag(move.model, *tag)  # it was deleted: nothing to finish
            newest = self._number(move.model, move.alias)
            if newest == move.number:
                return
            move = self._move(move.model, move.alias, newest)

    def _move(self, model: str, alias: str, number: int) -> Move:
        return next(move for move in self._read(model, alias) if move.number == number)

    def _read(self, model: str, alias: str | None) -> list[Move]:
        import polars as pl

        if not self._table.exists():
            return []
        wanted = pl.col("model") == model
        if alias is not None:
            wanted &= pl.col("alias") == alias
        order = ("at", "number") if alias is None else ("number",)  # clocks may be wrong
        rows = self._table.scan().filter(wanted).sort(order).collect()
        return [
            Move(
                **{name: row[name] for name in ("model", "alias", "number", "kind", "user", "at")},
                before=row["from_version"],
                version=row["to_version"],
                segments=tuple(json.loads(row["segments"] or "[]")),
                why=row["why"] or "",
                evaluation=row["evaluation"],
                evidence=json.loads(row["evidence"] or "{}"),
            )
            for row in rows.iter_rows(named=True)
        ]


def _application(model: str, alias: str) -> str:
    return f"shoal-alias-{model}-{alias}"


def _tag(alias: str) -> str:
    return f"shoal.moves.{alias}"


def _reached(tags: Mapping[str, str], alias: str) -> int:
    text = tags.get(_tag(alias), "0")
    return int(text) if text.isdigit() else 0


def _rows(move: Move) -> Any:
    import pyarrow as pa

    row = {
        "model": move.model,
        "alias": move.alias,
        "number": move.number,
        "kind": move.kind,
        "from_version": move.before,
        "to_version": move.version,
        "segments": json.dumps(move.segments) if move.segments else None,
        "why": move.why or None,
        "evaluation": move.evaluation,
        "evidence": json.dumps(move.evidence) if move.evidence else None,
        "user": move.user,
        "at": move.at,
    }
    whole = {"number", "from_version", "to_version"}
    kinds = {name: pa.int64() if name in whole else pa.string() for name in row}
    kinds["at"] = pa.timestamp("us", "UTC")
    return pa.Table.from_pylist([row], pa.schema(list(kinds.items())))

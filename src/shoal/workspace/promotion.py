"""Promoting by evidence, and rolling back: whole versions, or the members of some segments."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shoal.errors import Conflict, GateClosed, ModelError, TrackingError
from shoal.workspace.audit import Audit, Move
from shoal.workspace.composites import (
    compose_members,
    earlier_members,
    member_keys,
    named_keys,
    register_composite,
)
from shoal.workspace.evaluations import Evaluation, last_evaluation, won_segments

if TYPE_CHECKING:
    from shoal.models import ModelDeclaration
    from shoal.models.gate import GateResult
    from shoal.tracking import ModelVersion
    from shoal.workspace.opened import Opened

__all__ = ["Promotion", "place", "promote", "rollback"]

CHAMPION, CHALLENGER = "champion", "challenger"
_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What a promotion or rollback did.

    Attributes:
        move: How the alias moved.
        composite: The version is new, and holds members of several trainings.
        gate: The gate's words, each with its numbers.
        notes: What a person should know.
        seconds: Wall time.
    """

    move: Move
    composite: bool = False
    gate: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    seconds: float = 0.0

    def _repr_html_(self) -> str:
        from shoal.html import card

        move = self.move
        facts = {
            move.alias: f"version {move.version}",
            "before": move.before,
            "segments": len(move.segments) or "all",
            "why": move.why,
            "gate": "; ".join(self.gate),
            "note": "; ".join(self.notes),
        }
        return card(f"{move.kind}: {move.model}", facts)


def promote(
    space: Opened,
    model: str,
    version: str | int | None = None,
    *,
    to: str = CHAMPION,
    segments: Sequence[str] = (),
    why: str = "",
    force: bool = False,
) -> Promotion:
    """Moves an alias to a version, or to a new one with just some of its members.

    Args:
        space: The workspace.
        model: The model's name.
        version: The version or an alias of it; default the challenger.
        to: The alias. The declared gate guards ``champion`` alone, once there is one.
        segments: Take only these segments' members, and keep the present version's others:
            ``["won"]`` those that the last evaluation names, else ``UA,IAH`` or ``carrier=UA``.
        why: For the audit table.
        force: Also when the gate is closed.

    Raises:
        GateClosed: The gate does not let it pass; nothing was changed.
        TrackingError: There is no such version or alias, or no evaluation.
        ModelError: There is no such segment, or the versions' members cannot be one fleet.
        TableError: Members were deleted from the fleet table.
        Conflict: Another promotion was faster; the alias is where that one put it.
    """
    begun = time.perf_counter()
    tracker, audit = space.tracker, space.audit
    (pointers,) = tracker.pointers(model)
    now = pointers.aliases.get(to)
    wanted = str(version or CHALLENGER)
    found = tracker.resolve(f"{model}/{wanted}" if wanted.isdigit() else f"{model}@{wanted}")
    if found.version == now:
        raise TrackingError(
            f"Version {now} of '{model}' is the {to} already.", hint=f"shoal history {model}"
        )
    before = None if now is None else tracker.resolve(f"{model}/{now}")
    evidence = None if before is None else _evidence(space, model, found, before)
    notes: list[str] = []
    if evidence is not None and evidence.seen not in {"neither", "unknown"}:
        notes.append(
            f"The evaluation {evidence.id} used rows that {_who(evidence.seen)} saw in training."
        )
    declaration = space.models.get(model) if to == CHAMPION else None
    composite = None
    if segments:
        if before is None:
            raise TrackingError(
                f"'{model}' has no {to} whose other segments could stay as they are.",
                hint=f"Promote the whole: shoal promote {model} {found.version}",
            )
        keys = _chosen(space, model, found, segments, evidence)
        composite = compose_members(space, model, before, found, keys)
    words: tuple[str, ...] = ()
    if declaration is not None and declaration.promote_if and before:
        measured = None if composite is None else composite.metrics
        words, passed = _gate(space, declaration, found, before, evidence, measured, force=force)
        if not passed:
            notes.append("The gate is closed; it was forced.")
    number, keys_moved = found.version, composite.taken if composite else ()
    if composite is not None and before is not None:
        what = f"{len(composite.taken):,} segments"
        number = register_composite(space, composite, before, what).version
    move = audit.move(
        model,
        to,
        number,
        kind="promote",
        expected=now,
        segments=keys_moved,
        why=why,
        evaluation=None if evidence is None else evidence.id,
        evidence=_told(evidence, words, found.version if composite is not None else None),
    )
    return Promotion(
        move=move,
        composite=composite is not None,
        gate=words,
        notes=tuple(notes),
        seconds=time.perf_counter() - begun,
    )


def _gate(
    space: Opened,
    declaration: ModelDeclaration,
    candidate: ModelVersion,
    champion: ModelVersion,
    evidence: Evaluation | None,
    measured: Mapping[str, float] | None,
    *,
    force: bool,
) -> tuple[tuple[str, ...], bool]:
    """The gate's words, and whether it let the candidate pass; raises unless that is forced."""
    try:
        result, source = judge(space, declaration, candidate, champion, evidence, measured)
    except ModelError:
        if force:
            return (), False
        raise
    if not result.passed and not force:
        name, number = declaration.name, candidate.version
        raise GateClosed(
            f"Version {number} of '{name}' does not pass its gate, {declaration.promote_if!r}: "
            f"{'; '.join(result.said)} ({source}).",
            hint=f"shoal promote {name} {number} --force --why TEXT",
        )
    return result.said, result.passed


def rollback(
    space: Opened,
    model: str,
    *,
    segments: Sequence[str] = (),
    to: int | None = None,
    alias: str = CHAMPION,
    why: str = "",
) -> Promotion:
    """Moves an alias back to where it was before, or some segments' members.

    Args:
        space: The workspace.
        model: The model's name.
        segments: Only these: the members that the last version with others had.
        to: Which version; default the one before.
        alias: The alias.
        why: For the audit table.

    Raises:
        TrackingError: No earlier version is known, or there is no such version.
        ModelError: There is no such segment.
        Conflict: A promotion was faster; the alias is where that one put it.
    """
    begun = time.perf_counter()
    tracker, audit = space.tracker, space.audit
    (pointers,) = tracker.pointers(model)
    now = pointers.aliases.get(alias)
    if now is None:
        raise TrackingError(f"Model '{model}' has no {alias} to roll back.")
    earlier = [v for v in reversed(audit.before(model, alias)) if v != now]
    if to is None and not earlier:
        raise TrackingError(
            f"No earlier {alias} of '{model}' is known: version {now} was the first that "
            "shoal.promotions tells of.",
            hint=f"Name one: shoal rollback {model} --to VERSION",
        )
    if to == now:
        raise TrackingError(
            f"Version {now} of '{model}' is the {alias} now.", hint=f"shoal history {model}"
        )
    moved: tuple[str, ...] = ()
    if segments:
        current = tracker.resolve(f"{model}/{now}")
        number, moved = earlier_members(space, model, current, segments, [to] if to else earlier)
    else:
        number = to or earlier[0]
        tracker.resolve(f"{model}/{number}")
    move = audit.move(model, alias, number, kind="rollback", expected=now, segments=moved, why=why)
    return Promotion(move=move, composite=bool(moved), seconds=time.perf_counter() - begun)


def place(
    space: Opened,
    declaration: ModelDeclaration,
    version: ModelVersion,
    alias: str | None,
    *,
    promoting: bool,
    trained: bool,
) -> str:
    """Gives a trained version its alias: the first becomes champion, a gated one challenges.

    Args:
        space: The workspace.
        declaration: The model.
        version: Its version.
        alias: The alias that was asked for, or None.
        promoting: Also promote it to champion, if its gate lets it.
        trained: It was trained just now; else nothing had changed since.

    Returns:
        What a person should know, or nothing.
    """
    name, audit = declaration.name, space.audit
    if alias is None and not promoting:
        return ""
    (pointers,) = space.tracker.pointers(name)
    champion = pointers.aliases.get(CHAMPION)
    gated = alias == CHAMPION and declaration.promote_if is not None and champion is not None
    first = CHALLENGER if gated else alias
    if first is not None and pointers.aliases.get(first) != version.version:
        if not trained and first == CHAMPION and audit.decided(name):
            return f"version {champion} stays the champion, as a person decided"
        if not (gated and champion == version.version):
            _take(audit, name, first, version.version)
    if first == CHAMPION or champion == version.version:
        return ""
    if not promoting:
        return "challenger, for the model has a gate: shoal promote" if gated else ""
    try:
        done = promote(space, name, version.version, why="trained and promoted")
    except (GateClosed, ModelError) as error:  # the training itself is done and registered
        return f"challenger, for the gate is closed: {error.message}"
    return f"promoted: {'; '.join(done.gate)}" if done.gate else "promoted"


def _take(audit: Audit, model: str, alias: str, version: int) -> None:
    """Moves a training's alias; a promotion at the same moment comes before it."""
    for attempt in range(_ATTEMPTS):
        try:
            audit.move(model, alias, version, kind="train")
        except Conflict:
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def judge(
    space: Opened,
    declaration: ModelDeclaration,
    candidate: ModelVersion,
    champion: ModelVersion,
    evidence: Evaluation | None,
    measured: Mapping[str, float] | None = None,
) -> tuple[GateResult, str]:
    """Whether a version passes the declared gate, and where the numbers come from.

    The numbers are those that the trainings measured on their held-out rows; an evaluation of both
    on rows that neither saw puts its own in their place.

    Args:
        space: The workspace.
        declaration: The model.
        candidate: The version.
        champion: The champion.
        evidence: Their evaluation.
        measured: A composite's metrics, in place of the candidate's.

    Raises:
        ModelError: The gate names a metric that was not measured.
    """
    from shoal.models.gate import Gate

    metrics = [_metrics(space, version) for version in (candidate, champion)]
    if measured is not None:
        metrics[0] = _shares(measured)
    source = "each measured by its own training"
    if measured is None and evidence is not None and evidence.seen in {"neither", "unknown"}:
        source = f"{evidence.metric} by evaluation {evidence.id}, {evidence.rows:,} rows"
        for mine, name in zip(metrics, ("challenger", "champion"), strict=True):
            if (value := evidence.values[name]) is not None:
                mine[evidence.metric] = value
    return Gate(declaration.promote_if or "").judge(metrics[0], metrics[1]), source


def _metrics(space: Opened, version: ModelVersion) -> dict[str, float]:
    return _shares(space.tracker.run(version.run_id).metrics) if version.run_id else {}


def _shares(metrics: Mapping[str, float]) -> dict[str, float]:
    found, segments = dict(metrics), metrics.get("segments", 0)
    for status in ("ok", "fallback", "failed"):
        if segments and f"segments_{status}" in found:
            found[f"{status}_share"] = found[f"segments_{status}"] / segments
    return found


def _evidence(
    space: Opened, model: str, candidate: ModelVersion, champion: ModelVersion
) -> Evaluation | None:
    return last_evaluation(space.lake, model, candidate.version, champion.version)


def _who(seen: str) -> str:
    return "both versions" if seen == "both" else f"the {seen}"


def _told(
    evidence: Evaluation | None, words: tuple[str, ...], taken_from: int | None
) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if evidence is not None:
        told = {
            "metric": evidence.metric,
            **evidence.values,
            "p": evidence.p,
            "verdict": evidence.verdict,
            "segments": dict(evidence.segments),
            "table": f"{evidence.table}@{evidence.table_version}",
            "seen": evidence.seen,
        }
    if words:
        told["gate"] = list(words)
    if taken_from is not None:
        told["members_of"] = taken_from
    return told


def _chosen(
    space: Opened,
    model: str,
    version: ModelVersion,
    segments: Sequence[str],
    evidence: Evaluation | None,
) -> list[str]:
    """The keys of segments as a person names them; ``won`` are those that an evaluation names."""
    from shoal.models.artifact import read_header

    members = member_keys(space, version)
    if list(segments) != ["won"]:
        return named_keys(read_header(space.tracker.fleet_folder(version)), members, segments)
    if evidence is None:
        raise TrackingError(
            f"No evaluation tells which segments version {version.version} of '{model}' won.",
            hint=f"shoal evaluate {model} --challenger {version.version}",
        )
    won = set(won_segments(space.lake, evidence)) & set(members["segment"].to_list())
    if not won:
        raise TrackingError(
            f"Version {version.version} of '{model}' won no segment in evaluation {evidence.id}; "
            "nothing was changed."
        )
    return sorted(won)

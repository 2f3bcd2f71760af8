"""Where a registered version comes from, down to row groups, and what it made since."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.errors import TableError, TrackingError
from shoal.lake import row_groups
from shoal.workspace.composites import named_keys
from shoal.workspace.impact import PredictionImpact
from shoal.workspace.provenance import Provenance

if TYPE_CHECKING:
    import polars as pl

    from shoal.lake import Table
    from shoal.tracking import ModelVersion
    from shoal.workspace.workspace import Workspace

__all__ = ["FilePart", "MemberOrigin", "Origin", "Upstream", "find_origin"]


@dataclass(frozen=True, kw_only=True)
class FilePart:
    """What one Parquet file holds of a member's rows.

    Attributes:
        path: The file, below the table's folder.
        rows: Rows of the member in it.
        row_groups: Number of the row group, from 0, to the member's rows in it.
    """

    path: str
    rows: int
    row_groups: Mapping[int, int]


@dataclass(frozen=True, kw_only=True)
class MemberOrigin:
    """What one member was made of.

    Attributes:
        segment: Its key.
        status: ``ok``, ``fallback`` or ``failed``.
        model_used: The key of the member that predicts for it; a group's, for a fallback.
        reason: Why that one.
        table: The table it was trained on, as ``gold.sales@4``.
        rows: Rows of the segment there; the fallback group's, where that one predicts.
        rows_dropped: Rows among them that could not be used, such as those without a target.
        files: Where they lie; None when the version's files are gone.
        trained_by: The version whose training fitted it, and its run.
        definition: Fingerprint of code, declaration and libraries.
        params: What the estimator was made with, and what else was declared.
        metric: Its value of the declared metric; None when it was not measured.
    """

    segment: str
    status: str
    model_used: str
    reason: str
    table: str
    rows: int
    rows_dropped: int
    files: tuple[FilePart, ...] | None
    trained_by: Mapping[str, str]
    definition: str
    params: Mapping[str, Any]
    metric: float | None


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """A table's version, and what it was made of.

    Attributes:
        table: As ``gold.sales@4``.
        files: Input files that it had read by then.
        below: The versions of tables that it was made of.
    """

    table: str
    files: tuple[str, ...] = ()
    below: tuple[Upstream, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A registered version with its past and what came of it.

    Attributes:
        model: As ``models:/delay/7``.
        aliases: Aliases that point at it.
        run_id: Its run.
        members: The fleet table's version that holds its members, as ``shoal.fleet_delay@7``.
        segments: How many it has.
        trained_on: Version of the table to how many members were fitted on it.
        parts: The versions that a composite was put together of.
        code: Where it was declared, its commit, and whether that was all.
        environment: Python, packages, processor.
        params: Declared settings and the estimator's parameters.
        upstream: What it was trained on, and what that was made of.
        asked: The members that were asked for.
        composites: Versions that took members of it.
        predictions: Tables with predictions of it.
    """

    model: str
    aliases: tuple[str, ...]
    run_id: str
    members: str
    segments: int
    trained_on: Mapping[str, int]
    parts: tuple[str, ...]
    code: Mapping[str, Any]
    environment: Mapping[str, Any]
    params: Mapping[str, str]
    upstream: Upstream
    asked: tuple[MemberOrigin, ...]
    composites: tuple[str, ...]
    predictions: tuple[PredictionImpact, ...]


def find_origin(space: Workspace, ref: str, *, segments: Sequence[str] = ()) -> Origin:
    """Follows a registered version back to files, and forward to predictions.

    Args:
        space: The workspace.
        ref: Such as ``models:/delay/7`` or ``delay@champion``.
        segments: Members to follow down to row groups: ``UA,IAH`` or ``carrier=UA``.

    Raises:
        TrackingError: There is no such version, or Shoal did not train it into this lake.
        ModelError: There is no such segment.
    """
    from shoal.models.artifact import read_header

    version = space.tracker.resolve(ref)
    tags = version.tags
    name = tags.get("shoal.members_table", "")
    if not name or not space.lake.table(name).exists():
        raise TrackingError(
            f"{version.uri} has no members in this lake: another tool, or another lake, made it.",
            hint=f"shoal show {version.name}/{version.version}",
        )
    rows = _members(space, version)
    run = space.tracker.run(version.run_id)
    others = {v.version: v for v in space.tracker.versions(version.name)}
    keys: list[str] = []
    if segments:
        header = read_header(space.tracker.fleet_folder(version))
        keys = named_keys(header, rows.filter(rows["level"] == 0), segments)
    table = tags["shoal.table"]
    heads = rows.filter(rows["level"] == 0)
    counts = Counter(heads["trained_on_version"].to_list())
    return Origin(
        model=version.uri,
        aliases=version.aliases,
        run_id=version.run_id,
        members=f"{name}@{tags['shoal.members_version']}",
        segments=heads.height,
        trained_on={f"{table}@{number}": count for number, count in sorted(counts.items())},
        parts=tuple(f"models:/{version.name}/{n}" for n in _parts(version)),
        code={
            "declared": run.tags.get("mlflow.source.name", ""),
            "commit": tags.get("shoal.code_commit") or None,
            "changed": tags.get("shoal.code_dirty") == "true",
            "fingerprint": tags.get("shoal.fingerprint", ""),
        },
        environment=_environment(space, version),
        params=dict(run.params),
        upstream=_upstream(Provenance(space.lake), table, int(tags["shoal.table_version"])),
        asked=tuple(_asked(space, version, rows, keys, others)),
        composites=tuple(v.uri for v in others.values() if version.version in _parts(v)),
        predictions=tuple(_predictions(space, version)),
    )


def _members(space: Workspace, version: ModelVersion) -> pl.DataFrame:
    import polars as pl

    table = space.lake.existing(version.tags["shoal.members_table"])
    try:
        rows = table.scan(int(version.tags["shoal.members_version"]))
        number = int(version.tags["shoal.fleet_version"])
        return rows.filter(pl.col("fleet_version") == number).drop("state").collect()
    except (TableError, OSError) as error:
        raise TrackingError(
            f"The members of {version.uri} are no longer in {table.name}: {error}"
        ) from error


def _parts(version: ModelVersion) -> list[int]:
    text = version.tags.get("shoal.parts", "")
    return [int(part) for part in text.split(",") if part.isdigit()]


def _environment(space: Workspace, version: ModelVersion) -> Mapping[str, Any]:
    kept = space.tracker.kept(version.run_id)
    file = None if kept is None else kept / "environment.json"
    if file is None or not file.is_file():
        return {"hash": version.tags.get("shoal.environment_hash", "")}
    told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return told | {"hash": version.tags.get("shoal.environment_hash", "")}


def _asked(
    space: Workspace,
    version: ModelVersion,
    rows: pl.DataFrame,
    keys: Sequence[str],
    others: Mapping[int, ModelVersion],
) -> Iterator[MemberOrigin]:
    import polars as pl

    from shoal.models.artifact import read_header

    by_fleet = {
        int(v.tags["shoal.fleet_version"]): v
        for v in others.values()
        if "shoal.parts" not in v.tags and v.tags.get("shoal.fleet_version", "").isdigit()
    }
    table = space.lake.existing(version.tags["shoal.table"])
    by = read_header(space.tracker.fleet_folder(version)).by if keys else ()
    for key in keys:
        (row,) = rows.filter(pl.col("segment") == key, pl.col("level") == 0).to_dicts()
        used = row["model_used"] or key
        own = rows.filter(pl.col("segment") == used).to_dicts()
        made = own[0] if own else row
        seen = int(made["trained_on_version"])
        trainer = by_fleet.get(int(made["origin_version"]))
        params = json.loads(made["params"]) if made.get("params") else {}
        yield MemberOrigin(
            segment=key,
            status=row["status"],
            model_used=used,
            reason=row["reason"] or "",
            table=f"{table.name}@{seen}",
            rows=int(made["rows"] or 0),
            rows_dropped=int(made.get("rows_dropped") or 0),
            files=_files(table, seen, by, used),
            trained_by={
                "model": trainer.uri if trainer else "",
                "run": trainer.run_id if trainer else "",
                "fleet_version": str(made["origin_version"]),
            },
            definition=made["fingerprint"],
            params=params,
            metric=made.get(params.get("metric", "")),
        )


def _files(table: Table, version: int, by: Sequence[str], used: str) -> tuple[FilePart, ...] | None:
    """The row groups with rows of a segment, or of a group's segments."""
    import numpy as np

    from shoal.models.segments import segment_codes

    # A composite's group of another training is called ["UA"]@3; the baseline has seen all rows.
    text = re.sub(r"@\d+$", "", used)
    wanted = tuple(json.loads(text)) if text.startswith("[") else ()
    found: dict[str, dict[int, int]] = {}
    try:
        for name, number, rows in row_groups(table, version, by or table.schema(version).names[:1]):
            codes, texts = segment_codes(rows, by)
            hits = [i for i, key in enumerate(texts) if key[: len(wanted)] == wanted]
            if count := int(np.isin(codes, hits).sum()):
                found.setdefault(name, {})[number] = count
    except (TableError, OSError):
        return None
    return tuple(
        FilePart(path=name, rows=sum(groups.values()), row_groups=groups)
        for name, groups in found.items()
    )


def _upstream(provenance: Provenance, table: str, version: int) -> Upstream:
    made = provenance.at(table, version)
    return Upstream(
        table=f"{table}@{version}",
        files=tuple(sorted(made.files)) if made else (),
        below=tuple(
            _upstream(provenance, name, seen)
            for name, seen in sorted((made.inputs if made else {}).items())
            if name != table
        ),
    )


def _predictions(space: Workspace, version: ModelVersion) -> Iterator[PredictionImpact]:
    import polars as pl

    for table in space.lake.tables():
        if {"model", "model_version", "prediction"} <= set(table.schema().names):
            own = (pl.col("model") == version.name) & (pl.col("model_version") == version.version)
            if rows := int(table.scan().filter(own).select(pl.len()).collect().item()):
                yield PredictionImpact(table=table.name, model=version.name, rows=rows)

"""Fitted rows become members: every segment gets a row, and a named fallback where it needs one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shoal.models import ModelDeclaration
from shoal.models.codecs import is_pickled
from shoal.models.metrics import metric_values
from shoal.models.segments import segment_key
from shoal.training.job import FitJob
from shoal.training.source import Segments

__all__ = ["BASELINE", "PROVENANCE", "Group", "Members", "assemble", "groups_of"]

# The key of the member at the end of the chain of fallbacks.
BASELINE = "baseline"

# What a carried member brings from the training that fitted it; null in a member fitted now.
PROVENANCE = {
    "origin_version": pa.int64(),
    "trained_on_version": pa.int64(),
    "table_version": pa.int64(),
    "fingerprint": pa.string(),
    "trained_at": pa.timestamp("us", tz="UTC"),
}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some adjacent segments with the same first key values.

    Attributes:
        level: 1 for the last key column dropped, 2 for the last two, ....
        first: The position of its first segment.
        end: The position after its last.
        key: Its canonical key.
    """

    level: int
    first: int
    end: int
    key: str


@dataclass(frozen=True, kw_only=True)
class Members:
    """All members of a fleet.

    Attributes:
        table: One row per segment, then one per fitted fallback group.
        templates: The templates by id.
        failures: Cause of each fallback or failure, and how many segments it met.
        pooled: The sums of each metric over all segments' held-out rows.
    """

    table: pa.Table
    templates: dict[str, str]
    failures: dict[str, int]
    pooled: dict[str, np.ndarray[Any, Any]]


def groups_of(segments: Segments, level: int, wanted: Sequence[int]) -> list[Group]:
    """The groups of one level that hold any of the wanted segments.

    Args:
        segments: The segments, in order.
        level: How many of the last key columns are dropped.
        wanted: Positions of segments.
    """
    found = []
    keep = len(segments.texts[0]) - level
    prefixes = [text[:keep] for text in segments.texts]
    at = 0
    for position in wanted:
        if position < at:
            continue
        first = at = position
        while first > 0 and prefixes[first - 1] == prefixes[position]:
            first -= 1
        while at < len(prefixes) and prefixes[at] == prefixes[position]:
            at += 1
        found.append(Group(level=level, first=first, end=at, key=segment_key(prefixes[position])))
    return found


def assemble(
    declaration: ModelDeclaration,
    segments: Segments,
    fitted: pa.Table,
    groups: Sequence[tuple[Group, pa.Table]],
    job: FitJob,
) -> Members:
    """One table of all members, without the columns that are the same for the whole fleet.

    Args:
        declaration: The model's declaration.
        segments: The segments, in order.
        fitted: The kernel's row of each segment.
        groups: The fitted fallback groups with the kernel's row of each.
        job: What was fitted.
    """
    keys = segments.keys
    rows = pa.concat_tables([fitted, *(row for _, row in groups)], promote_options="default")
    has_state = np.asarray(rows.column("state").is_valid())
    count = len(keys)
    usable = {group.key for (group, _), fine in zip(groups, has_state[count:], strict=True) if fine}
    used: list[str | None] = list(keys)
    for i in np.flatnonzero(~has_state[:count]).tolist():
        used[i] = _fallback(segments.texts[i], usable)
    for (group, _), fine in zip(groups, has_state[count:], strict=True):
        text = segments.texts[group.first][: len(declaration.by) - group.level]
        used.append(group.key if fine else _fallback(text, usable))
    columns: dict[str, Any] = {}
    at = pa.array([*range(count), *(g.first for g, _ in groups)], pa.int64())
    levels = np.array([0] * count + [g.level for g, _ in groups], dtype=np.int8)
    for i, name in enumerate(declaration.by):
        # A group has no value for the key columns that it drops.
        kept = pa.array(levels < len(declaration.by) - i)
        values = segments.values.column(name).take(at)
        columns[name] = pc.if_else(kept, values, pa.scalar(None, values.type))
    columns["segment"] = pa.array([*keys, *(g.key for g, _ in groups)], pa.string())
    columns["level"] = pa.array(levels)
    columns["status"] = rows.column("status")
    columns["model_used"] = pa.array(used, pa.string())
    uses: list[str | None] = [BASELINE if name == BASELINE else "own" for name in used]
    for i in np.flatnonzero(~has_state).tolist():
        uses[i] = _uses(used[i])
    columns["uses"] = pa.array(uses, pa.string())
    for name in ("reason", "error"):
        columns[name] = rows.column(name)
    spans = [segments.offsets[[g.first, g.end]] for g, _ in groups]
    extents = [*np.diff(segments.offsets).tolist(), *(int(end - start) for start, end in spans)]
    columns["rows"] = pa.array(extents, pa.int64())
    for name in ("rows_train", "rows_holdout", "rows_dropped", "rows_hash"):
        columns[name] = rows.column(name)
    pooled = _measure(rows, count, job, columns)
    columns["interval"] = rows.column("interval")
    columns["template"], columns["structure"], templates = _templates(rows.column("template"))
    columns["state"] = rows.column("state")
    pickled = [name for name, text in templates.items() if is_pickled(text)]
    columns["pickled"] = pc.is_in(columns["template"], pa.array(pickled, pa.string()))
    columns |= _costs(rows, columns["rows"], job)
    for name, kind in PROVENANCE.items():
        known = name in rows.column_names
        columns[name] = rows.column(name) if known else pa.nulls(rows.num_rows, kind)
    columns |= {name: rows.column(name) for name in rows.column_names if name.startswith("sums_")}
    unwell = fitted.select(["reason", "status"]).filter(pc.not_equal(fitted.column("status"), "ok"))
    causes = Counter(
        _cause(reason, status)
        for reason, status in zip(*(c.to_pylist() for c in unwell.columns), strict=True)
    )
    return Members(
        table=pa.table(columns).combine_chunks(),
        templates=templates,
        failures=dict(causes.most_common()),
        pooled=pooled,
    )


def _templates(column: pa.ChunkedArray) -> tuple[pa.Array, pa.Array, dict[str, str]]:
    """Each row's template by id, its text on the first row that uses it, and all texts by id."""
    encoded = column.unify_dictionaries().combine_chunks()
    texts = encoded.dictionary
    known = np.asarray(encoded.is_valid())
    at = np.asarray(encoded.indices.fill_null(0))
    used, first = np.unique(at[known], return_index=True)
    rows = np.flatnonzero(known)[first]
    templates = {template_id(text): text for text in texts.take(pa.array(used)).to_pylist()}
    names: list[str | None] = [None] * len(texts)
    for position, name in zip(used.tolist(), templates, strict=True):
        names[position] = name
    structure: list[str | None] = [None] * len(column)
    for row, text in zip(rows.tolist(), templates.values(), strict=True):
        structure[row] = text
    ids = pa.array(names, pa.string()).take(encoded.indices)
    return ids, pa.array(structure, pa.string()), templates


def _costs(rows: pa.Table, count: pa.Array, job: FitJob) -> dict[str, Any]:
    """What each member took and takes: seconds, bytes read and bytes kept."""
    width = 8 * (job.features + 1 + job.timed + job.weighted)
    return {
        "fit_seconds": rows.column("fit_seconds"),
        "core_seconds": rows.column("core_seconds"),
        "data_bytes": pc.multiply(count, pa.scalar(width, pa.int64())),
        "state_bytes": pc.binary_length(rows.column("state")).cast(pa.int64()),
    }


def template_id(template: str) -> str:
    """A short name for a template."""
    return hashlib.sha256(template.encode()).hexdigest()[:12]


def _fallback(text: tuple[str | None, ...], usable: set[str]) -> str | None:
    for length in range(len(text) - 1, -1, -1):
        key = segment_key(text[:length])
        if key in usable:
            return key
    return BASELINE if BASELINE in usable else None


def _uses(used: str | None) -> str | None:
    """Whose model a member without its own uses: a group's, the global one, or the baseline."""
    if used in (None, BASELINE):
        return used
    return "global" if used == "[]" else "group"


def _measure(
    rows: pa.Table, count: int, job: FitJob, columns: dict[str, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    pooled = {}
    names = {f"sums_{m}": (m, m) for m in job.metrics}
    names["sums_baseline"] = (f"baseline_{job.metric}", job.metric)
    for source, (column, metric) in names.items():
        found = np.full(rows.num_rows, np.nan)
        if source in rows.column_names:
            sums = rows.column(source)
            measured = np.flatnonzero(np.asarray(sums.is_valid()))
            if len(measured):
                flat = np.asarray(sums.drop_null().combine_chunks().flatten())
                matrix = flat.reshape(len(measured), -1)
                found[measured] = metric_values(metric, matrix)
                # Fallback groups hold the same rows again: only segments are pooled.
                pooled[column] = matrix[measured < count].sum(axis=0, keepdims=True)
        columns[column] = pa.array(found, mask=np.isnan(found))
    return pooled


def _cause(reason: str | None, status: str) -> str:
    if status == "fallback" and reason and "min_rows" in reason:
        return "fewer training rows than min_rows"
    return (reason or status)[:120]

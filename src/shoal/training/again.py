"""The same training once more, for comparison: nothing is committed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from shoal.lake import Lake
from shoal.models import ModelDeclaration
from shoal.training.carry import named_segments
from shoal.training.fingerprint import member_fingerprint
from shoal.training.fitting import fit_many
from shoal.training.plan import Plan
from shoal.training.run import fit_single, gather, open_pool
from shoal.training.source import open_source

__all__ = ["train_again"]


def train_again(
    declaration: ModelDeclaration,
    lake: Lake,
    version: int,
    *,
    segments: Sequence[str] = (),
    workers: int | None = None,
) -> tuple[pa.Table, str]:
    """Fit a model on one version of its table, in processes here.

    Args:
        declaration: What to train.
        lake: Where its table is.
        version: The table's version.
        segments: These alone, such as ``UA,IAH``; groups are then not those of the whole table.
        workers: Processes that fit; default one per processor.

    Returns:
        One row for each member: ``segment``, ``level``, ``status``, ``state``, ``template`` (its
        text) and the declared metric; and the members' fingerprint.

    Raises:
        TableError: That version cannot be read any more.
        ModelError: The declaration's function is wrong.
        TrainingError: The data cannot train it.
    """
    source = open_source(declaration, lake, version)
    plan = Plan(declaration, source)
    if segments:
        part = replace(source, keys=named_segments(declaration, source, segments))
        plan = Plan(declaration, part, target=plan.target)
    with tempfile.TemporaryDirectory(prefix="shoal-train-") as folder:
        if declaration.by:
            with open_pool(declaration, None, workers) as pool:
                fits = fit_many(plan, pool, Path(folder), None)
        else:
            fits = fit_single(plan, Path(folder), None)
    members = gather(plan, fits)
    rows = members.table
    texts = [members.templates.get(name) for name in rows.column("template").to_pylist()]
    columns = ("segment", "level", "status", "state", declaration.metric)
    found = rows.select(columns).append_column("template", pa.array(texts, pa.string()))
    return found, member_fingerprint(declaration, source)

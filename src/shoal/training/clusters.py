"""Clusters of segments: columns of the table whose values have parameters of their own."""

from __future__ import annotations

import json

from shoal.errors import TrainingError
from shoal.models import ModelDeclaration
from shoal.models.segments import key_texts
from shoal.training.source import Segments, Source

__all__ = ["cluster_keys"]


def cluster_keys(
    declaration: ModelDeclaration, source: Source, segments: Segments
) -> dict[str, str]:
    """The cluster of each segment, such as ``{"region":"north"}``, by the segment's key.

    Args:
        declaration: The model; it names the clusters' columns.
        source: Its table.
        segments: Its segments.

    Raises:
        TrainingError: A segment has rows of several clusters.
    """
    import polars as pl

    by, columns = list(declaration.by), list(declaration.clusters)
    if not columns:
        return {}
    # A key column may be a cluster's too.
    values = [pl.col(name).first().alias(f"c{i}") for i, name in enumerate(columns)]
    apart = [pl.col(name).n_unique() > 1 for name in columns]
    found = (
        source.scan()
        .group_by([pl.col(name).alias(f"by{i}") for i, name in enumerate(by)])
        .agg(*values, pl.any_horizontal(apart).alias("apart"))
        .sort([f"by{i}" for i in range(len(by))])
        .collect()
    )
    if len(found) != len(segments.keys):
        raise TrainingError(f"{source.table.name} has other segments than a moment ago.")
    for key, split in zip(segments.keys, found["apart"].to_list(), strict=True):
        if split:
            raise TrainingError(
                f"Model {declaration.name!r} ({declaration.location}): search per="
                f"{', '.join(columns)}: segment {key} has rows with different values; a cluster "
                "is made of whole segments.",
                hint="give all rows of a segment one value in the pipeline, or name the column "
                "first in by=",
            )
    texts = [key_texts(found[f"c{i}"].to_arrow()).to_pylist() for i in range(len(columns))]
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*texts, strict=True))
    names = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    return dict(zip(segments.keys, names, strict=True))

"""What a job of an exported project does on Databricks: train or score one model.

The pipeline's tables live in a catalog there, Shoal's lake on a volume. So the model's table is
taken over into the lake as Parquet files that Spark writes; then everything is as it is anywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import ProjectError, ShoalError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from shoal.lake import Table

__all__ = ["main", "run_step", "take_over"]


def main(arguments: Sequence[str] | None = None) -> None:
    """The job's entry: ``train|score MODEL --catalog C --lake FOLDER --project FOLDER``."""
    from pyspark.sql import SparkSession

    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=("train", "score"))
    parser.add_argument("model")
    for name in ("catalog", "lake", "project"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args(arguments)
    told = run_step(
        SparkSession.builder.getOrCreate(),
        given.action,
        given.model,
        catalog=given.catalog,
        lake=given.lake,
        project=Path(given.project),
    )
    print(told)  # noqa: T201 - a job's output


def run_step(
    spark: SparkSession, action: str, model: str, *, catalog: str, lake: str, project: Path
) -> str:
    """Trains or scores a model over the catalog's newest rows.

    Args:
        spark: A session that sees the catalog.
        action: ``train`` or ``score``.
        model: The model's name.
        catalog: The tables' catalog; empty for the session's own.
        lake: Folder of Shoal's lake.
        project: Folder of the exported project.

    Returns:
        What was done, in a line.

    Raises:
        ShoalError: It failed.
    """
    from shoal.workspace import Workspace

    with Workspace.open(project) as space:
        chosen = replace(space.project.profile, storage=lake)
        space.project = replace(space.project, profile=chosen)
        (declaration,) = space.declared([model])
        table = space.lake.table(declaration.table)
        take_over(spark, ".".join(filter(None, (catalog, table.name))), table)
        if action == "train":
            (trained,) = space.train([model])
            told, error = f"{model}: {trained.status}, version {trained.version}", trained.error
        elif action == "score":
            (scored,) = space.score([model])
            told, error = f"{model}: {scored.status}, {scored.rows} rows", scored.error
        else:
            raise ProjectError(f"'{action}' is no step.", hint="train or score")
    if error:
        raise ShoalError(error)
    return told


def take_over(spark: SparkSession, name: str, table: Table) -> int:
    """Replaces a table's rows by those of a catalog's table; gives the new version.

    Args:
        spark: A session that sees the catalog.
        name: The table there.
        table: The table here; Spark must see its folder.
    """
    from pyspark.sql.pandas.types import to_arrow_schema

    from shoal.lake import staged_files

    frame = spark.read.table(name)
    with table.staging() as folder:
        frame.write.parquet(folder)
        return table.commit(
            staged_files(folder),
            to_arrow_schema(frame.schema, timezone="UTC"),
            overwrite=True,
            metadata={"shoal.source": name},
        )

"""Small real projects for tests: a folder with sources and landing files, run through Workspace."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shoal.engines import Engine
from shoal.lake import Lake
from shoal.workspace import Workspace
from shoal.workspace.report import TableReport

SPEC = "name: small\nstorage: lake\nlibraries:\n  - glob:\n      include: transformations/**\n"
HEAD = """
from pyspark import pipelines as dp
from pyspark.sql import functions as F
import shoal
"""


class SmallProject:
    """A project folder that tests fill and run.

    Args:
        root: An empty folder.
        engine: The engine that its runs share.
    """

    def __init__(self, root: Path, engine: Engine | None = None) -> None:
        self.root = root
        self.engine = engine
        self.storage = root / "lake"
        root.mkdir(parents=True, exist_ok=True)
        (root / "spark-pipeline.yml").write_text(SPEC)
        (root / "transformations").mkdir()
        (root / "landing").mkdir()

    @property
    def lake(self) -> Lake:
        return Lake(self.storage)

    def move_lake(self, storage: Path) -> None:
        """Puts the lake into another folder, by a profile."""
        self.storage = storage
        (self.root / "shoal.toml").write_text(f'[profiles.default]\nstorage = "{storage}"\n')

    def python(self, text: str, name: str = "tables.py") -> Path:
        """Writes a Python source below the usual imports; its first line is line 1 of HEAD."""
        path = self.root / "transformations" / name
        path.write_text(HEAD.lstrip() + textwrap.dedent(text))
        return path

    def sql(self, text: str, name: str = "tables.sql") -> Path:
        path = self.root / "transformations" / name
        path.write_text(textwrap.dedent(text).lstrip())
        return path

    def land(self, name: str, rows: Iterable[Mapping[str, Any]] | str | bytes) -> Path:
        """Writes one landing file: JSON lines of the rows, or the text as it is.

        The file is dated a few minutes back, so that it does not look as if still being written.
        """
        path = self.root / "landing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        elif isinstance(rows, str):
            path.write_bytes(rows.encode())
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settle(path)
        return path

    def open(self) -> Workspace:
        space = Workspace.open(self.root)
        if self.engine is not None:
            space.engine = self.engine  # a cached property: given instead of made
        return space

    def run(self, **options: Any) -> dict[str, TableReport]:
        """Refreshes the tables; the reports by table name."""
        with self.open() as space:
            reports = space.refresh(space.options(**options))
        return {report.table: report for report in reports}

    def ok(self, **options: Any) -> dict[str, TableReport]:
        """Refreshes the tables, of which none may fail."""
        found = self.run(**options)
        errors = {report.table: report.error for report in found.values() if report.error}
        if errors:
            raise AssertionError(f"tables failed: {errors}")
        return found

    def plan(self, **options: Any) -> dict[str, tuple[str, str]]:
        """The planned refresh and its reason by table name."""
        with self.open() as space:
            decisions, _ = space.plan(space.options(**options))
        return {str(d.name): (d.action, d.reason) for d in decisions}

    def rows(self, table: str, *columns: str) -> list[Any]:
        """A table's rows as sorted tuples, or its values where one column is asked for."""
        frame = self.lake.table(table).scan().collect()
        found = frame.select(columns or sorted(frame.columns)).rows()
        values = [row[0] for row in found] if len(columns) == 1 else found
        return sorted(values, key=repr)

    def versions(self) -> dict[str, int]:
        """Versions of all tables but the records of runs: a failed one is taken down too."""
        records = {"shoal.events", "shoal.lineage"}
        tables = (table for table in self.lake.tables() if table.name not in records)
        return {table.name: table.version() for table in tables}


def settle(path: Path, seconds: int = 300) -> None:
    """Dates a file back by some minutes, keeping the order of files made one after another."""
    status = path.stat()
    moved = status.st_mtime_ns - seconds * 1_000_000_000
    os.utime(path, ns=(moved, moved))

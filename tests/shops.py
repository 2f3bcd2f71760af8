"""A small project with one fleet for tests of its lifecycle: shops that are trained twice."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa

from shoal.workspace import Workspace

MODELS = """
import shoal
from sklearn.linear_model import Ridge


@shoal.model(table="gold.sales", target="y", by=["region", "shop"], time="day"{more})
def sales(alpha={alpha}):
    return Ridge(alpha=alpha)
"""

SPEC = "name: shop\nstorage: lake\nlibraries: []\n"


def sales(first: int, days: int, *, shops: int = 12, seed: int = 0) -> pa.Table:
    """A row for each shop and day; shop ``s0`` has rows on its first day only."""
    random = np.random.default_rng([seed, first])
    shop, day = (a.ravel() for a in np.meshgrid(np.arange(shops), np.arange(first, first + days)))
    kept = (shop > 0) | (day < 3)
    shop, day = shop[kept], day[kept]
    x = random.normal(size=(2, len(shop)))
    return pa.table(
        {
            "region": [f"r{i % 2}" for i in shop],
            "shop": [f"s{i}" for i in shop],
            "day": day,
            "x0": x[0],
            "x1": x[1],
            "y": x[0] * (1 + shop) - x[1] + 0.1 * random.normal(size=len(shop)),
        }
    )


class Shops:
    """A project folder with ``gold.sales`` and a model of it.

    Args:
        root: An empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "models").mkdir(parents=True)
        (root / "spark-pipeline.yml").write_text(SPEC)
        self.declare(100.0)
        with self.open() as space:
            space.lake.table("gold.sales").append(sales(0, 40))

    def copy(self, root: Path) -> Shops:
        """The same project in another folder, its registry pointing there."""
        shutil.copytree(self.root, root)
        with contextlib.closing(sqlite3.connect(root / "lake/mlflow.db")) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
            for table in tables:
                for _, column, kind, *_ in database.execute(f"PRAGMA table_info('{table}')"):
                    if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                        database.execute(
                            f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                            (str(self.root), str(root)),
                        )
            database.commit()
        copied = Shops.__new__(Shops)
        copied.root = root
        return copied

    def open(self) -> Workspace:
        return Workspace.open(self.root)

    def declare(self, alpha: float, more: str = "") -> None:
        """Writes the model anew; a smaller alpha predicts better."""
        (self.root / "models/sales.py").write_text(MODELS.format(alpha=alpha, more=more))

    def train(self, alpha: float, more: str = "", **options):
        """Trains with another alpha; the report."""
        self.declare(alpha, more)
        with self.open() as space:
            (report,) = space.train(["sales"], **options)
        assert report.status != "failed", report.error
        return report

    def land(self, first: int = 40, days: int = 20) -> None:
        """New days arrive."""
        with self.open() as space:
            space.lake.table("gold.sales").append(sales(first, days))

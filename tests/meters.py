"""A small real project with many segments for the workspace's tests: files to a fleet of meters."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path

import numpy as np

from shoal.engines import Engine
from shoal.workspace import Workspace

FIRST = dt.date(2024, 1, 1)

_SPEC = """name: meters
storage: lake
libraries:
  - glob:
      include: transformations/**
"""

_TABLES = """
from pyspark import pipelines as dp
import shoal

READING = "meter STRING, region STRING, day DATE, kwh DOUBLE, temperature DOUBLE"


@dp.table(name="bronze.readings", comment="One row per meter and day, as landed")
def landed():
    return spark.readStream.format("json").schema(READING).load("landing")


@dp.table(name="silver.readings", comment="Readings that can be true")
@shoal.expect_or_drop("not_negative", "kwh >= 0")
@shoal.expect("warm_enough", "temperature > -5")
def readings():
    return spark.readStream.table("bronze.readings")
"""

_GOLD = """CREATE MATERIALIZED VIEW gold.features
COMMENT 'What a model of one meter learns from'
AS SELECT region, meter, day, kwh, temperature, CAST(dayofweek(day) AS DOUBLE) AS weekday,
  lag(kwh, 7) OVER (PARTITION BY region, meter ORDER BY day) AS last_week
FROM silver.readings;

CREATE MATERIALIZED VIEW gold.regions
COMMENT 'Days of whole regions'
AS SELECT region, day, sum(kwh) AS kwh, count(*) AS meters FROM silver.readings
GROUP BY region, day;
"""

_MODEL = """
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler
import shoal


@shoal.model(
    table="gold.features", target="kwh", by=["region", "meter"], time="day", metric="mae",
    key=["meter", "day"], interval=0.9, min_rows=20, params={"alpha": ALPHA},
    promote_if="mae < champion.mae * 2",
)
def load(alpha: float):
    return make_pipeline(SimpleImputer(), StandardScaler(), Ridge(alpha=alpha))
"""


def write_project(root: Path, *, meters: int = 24) -> None:
    """A project whose first 60 days have landed.

    Args:
        root: An empty folder.
        meters: How many segments; one in 40 has too few days for a model of its own.
    """
    for name in ("transformations", "models", "landing"):
        (root / name).mkdir(parents=True)
    (root / "spark-pipeline.yml").write_text(_SPEC)
    (root / "transformations/readings.py").write_text(_TABLES.lstrip())
    (root / "transformations/gold.sql").write_text(_GOLD)
    set_alpha(root, 50.0)
    land(root, 0, 60, meters=meters)


def set_alpha(root: Path, alpha: float) -> None:
    """Declares the model with another parameter."""
    (root / "models/load.py").write_text(_MODEL.lstrip().replace("ALPHA", str(alpha)))


def land(root: Path, first: int, days: int, *, meters: int = 24, seed: int = 7) -> None:
    """Lands some days of all meters as one file."""
    random = np.random.default_rng([seed, first])
    fixed = np.random.default_rng(seed)
    size, trend = fixed.uniform(5, 30, meters), fixed.uniform(0.2, 1.5, meters)
    lines = []
    for day in range(first, first + days):
        degrees = 12 + 10 * np.sin(day / 20) + random.normal()
        for meter in range(meters):
            if meter % 40 == 17 and day < first + days - 10:
                continue  # a new meter
            usual = size[meter] * (1 + 0.3 * (day % 7 < 5)) + trend[meter] * abs(degrees - 16)
            kwh = usual + random.normal() * (0.5 + size[meter] / 20)
            if random.random() < 0.004:
                kwh = -1.0
            lines.append(
                json.dumps(
                    {
                        "meter": f"M{meter:04}",
                        "region": ("north", "south", "east", "west")[meter % 4],
                        "day": str(FIRST + dt.timedelta(days=day)),
                        "kwh": round(float(kwh), 3),
                        "temperature": round(float(degrees), 2),
                    }
                )
            )
    path = root / "landing" / f"days-{first:03}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    past = path.stat().st_mtime - 300
    os.utime(path, (past, past))


def make_project(root: Path, *, meters: int = 24, engine: Engine | None = None) -> None:
    """Runs the project: two versions of the fleet, the second a challenger that was evaluated."""

    def opened() -> Workspace:
        space = Workspace.open(root)
        if engine is not None:
            space.engine = engine  # a cached property: given instead of made
        return space

    write_project(root, meters=meters)
    with opened() as space:
        report = space.run(space.options())
        assert not report.failed, report
    set_alpha(root, 0.1)
    land(root, 60, 20, meters=meters)
    with opened() as space:
        report = space.run(space.options(), models=False)
        assert not report.failed, report
        (trained,) = space.train(["load"], alias="challenger")
        assert trained.status == "trained", trained
        space.score(["load"])
        space.evaluate("load")

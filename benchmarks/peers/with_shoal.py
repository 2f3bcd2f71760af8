"""The medallion as a Shoal project: full refresh, more data, nothing new.

    python with_shoal.py PROJECT on|off REPEAT       expectations on or off
    python with_shoal.py PROJECT graph REPEAT        five small medallions: twenty tables

Prints one JSON object: seconds of each part, lists where a part is run several times.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

from queries import CATEGORIES, DAILY, PAID, SCHEMA, SILVER

SPEC = "name: medallion\nstorage: lake\nlibraries: [{glob: {include: transformations/**}}]\n"
TABLES = '''
from pyspark import pipelines as dp
import shoal


@dp.table(name="bronze.orders{n}")
def bronze{n}():
    return spark.readStream.schema({schema!r}).parquet("landing")


@dp.table(name="silver.orders{n}")
{expectations}
def silver{n}():
    return spark.readStream.table("bronze.orders{n}").selectExpr(*{silver!r}){where}


@dp.materialized_view(name="gold.daily{n}")
def daily{n}():
    return spark.sql("""{daily}""")


@dp.materialized_view(name="gold.categories{n}")
def categories{n}():
    return spark.sql("""{categories}""")
'''
EXPECTATIONS = (
    f'@shoal.expect_or_drop("paid", {PAID!r})\n@shoal.expect("channel", "channel IS NOT NULL")'
)


def write_project(root, expectations, copies=("",)):
    (root / "transformations").mkdir(parents=True, exist_ok=True)
    (root / "spark-pipeline.yml").write_text(SPEC)
    for n in copies:
        text = TABLES.format(
            n=n,
            schema=SCHEMA,
            silver=SILVER,
            expectations=EXPECTATIONS if expectations else "",
            where="" if expectations else f".where({PAID!r})",
            daily=DAILY.format(silver=f"silver.orders{n}"),
            categories=CATEGORIES.format(silver=f"silver.orders{n}", products="ref.products"),
        )
        (root / f"transformations/tables{n}.py").write_text(text)


def refresh(root, space=None):
    """Opens the project anew (sources read, graph analysed) and refreshes it; seconds by table."""
    from shoal.workspace import Workspace

    begun = time.perf_counter()
    opened = Workspace.open(root)
    if space is not None:
        opened.engine = space.engine  # a session that is there already
    reports = opened.refresh(opened.options())
    errors = [report.error for report in reports if report.error]
    if errors:
        raise SystemExit("\n".join(errors))
    tables = {report.table: [report.refresh, round(report.seconds, 3)] for report in reports}
    return opened, time.perf_counter() - begun, tables


def fresh(root):
    """Forgets every table but the dimension."""
    for name in ("bronze", "silver", "gold", "shoal"):
        shutil.rmtree(root / "lake" / name, ignore_errors=True)


def main():
    root, mode, repeat = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    write_project(root, mode != "off", range(5) if mode == "graph" else ("",))
    fresh(root)
    begun = time.perf_counter()
    import pyspark.sql  # noqa: F401  what every session needs, counted as its start

    from shoal.workspace import Workspace

    space = Workspace.open(root)
    space.engine  # noqa: B018  starts it
    found = {"start": time.perf_counter() - begun, "full": [], "more": [], "none": [], "tables": {}}
    for _ in range(repeat):
        fresh(root)
        _, seconds, found["tables"]["full"] = refresh(root, space)
        found["full"].append(seconds)
    waiting = sorted((root / "later").glob("*.parquet")) if mode != "graph" else []
    for file in waiting[: max(repeat, 3)]:
        os.link(file, root / "landing" / file.name)
        _, seconds, found["tables"]["more"] = refresh(root, space)
        found["more"].append(seconds)
    for _ in range(max(repeat, 3)):
        _, seconds, found["tables"]["none"] = refresh(root, space)
        found["none"].append(seconds)
    for file in waiting:
        (root / "landing" / file.name).unlink(missing_ok=True)
    space.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

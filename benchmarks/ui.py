"""How fast the workspace's pages answer: a lake of 200 tables, a fleet of 10,000, 1,000 nodes.

A real server over a real lake, asked over one connection: the first answer once it has read what
pages need, the first after all that the page was read from has a new version, and the middle and the
slowest of the following ones:

    python benchmarks/ui.py
    python benchmarks/ui.py --segments 100000
"""

from __future__ import annotations

import argparse
import datetime as dt
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from shoal.lake import Lake
from shoal.workspace import Workspace

# What pages are read from; a commit without a row makes a new version of each.
TOUCHED = (
    "gold.features",
    "shoal.evaluations_load",
    "shoal.fleet_load",
    "shoal.lineage",
    "silver.table_0000",
    "silver.table_0100",
)
SPEC = "name: bench\nstorage: lake\nlibraries: [{glob: {include: transformations/**}}]\n"
MODEL = """
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
import shoal


@shoal.model(table="gold.features", target="y", by=["region", "meter"], time="day", metric="mae",
             interval=0.9, min_rows=10, params={"alpha": ALPHA})
def load(alpha):
    return make_pipeline(StandardScaler(), Ridge(alpha=alpha))
"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--days", type=int, default=40, help="rows of each segment")
    parser.add_argument("--nodes", type=int, default=1_000, help="nodes of the lineage graph")
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--keep", type=Path, help="make the lake here, or take the one that is")
    options = parser.parse_args()
    if options.keep is not None:
        if not options.keep.exists():
            prepare(options.keep, options)
        measure(options.keep, options)
        return
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        root = Path(folder) / "bench"
        prepare(root, options)
        measure(root, options)


def prepare(root: Path, options: argparse.Namespace) -> None:
    """A lake with a fleet of two compared versions, tables, and the lineage of many more."""
    (root / "transformations").mkdir(parents=True)
    (root / "models").mkdir()
    (root / "spark-pipeline.yml").write_text(SPEC)
    (root / "transformations/none.sql").write_text(
        "CREATE MATERIALIZED VIEW gold.one AS SELECT 1 AS one;\n"
    )
    (root / "models/load.py").write_text(MODEL.replace("ALPHA", "100.0"))
    with Workspace.open(root) as space:
        space.lake.table("gold.features").append(rows(options.segments, options.days))
        space.train(["load"])
    (root / "models/load.py").write_text(MODEL.replace("ALPHA", "0.1"))
    with Workspace.open(root) as space:
        space.train(["load"], alias="challenger")
        space.evaluate("load")
        small = pa.table({"id": np.arange(1_000), "value": np.random.default_rng(1).random(1_000)})
        for number in range(options.tables):
            for _ in range(3):
                space.lake.table(f"silver.table_{number:04}").append(small)
        edges(space, options.nodes)


def rows(segments: int, days: int) -> pa.Table:
    """A row for each segment and day."""
    random = np.random.default_rng(7)
    meter = np.repeat(np.arange(segments), days)
    day = np.tile(np.arange(days), segments)
    x = random.normal(size=(4, len(meter)))
    slope = random.normal(size=(4, segments))
    y = (slope[:, meter] * x).sum(0) + random.normal(size=len(meter)) * (1 + meter % 7)
    start = np.datetime64("2024-01-01")
    return pa.table(
        {
            "region": pa.array(np.array(["north", "south", "east", "west"])[meter % 4]),
            "meter": pa.array([f"M{number:06}" for number in range(segments)]).take(
                pa.array(meter)
            ),
            "day": pa.array(start + day.astype("timedelta64[D]")),
            **{f"x{i}": x[i] for i in range(4)},
            "y": y,
        }
    )


def edges(space: Workspace, nodes: int) -> None:
    """Lineage as the runs of a large project would have kept it: layers of tables."""
    from shoal.pipeline import LINEAGE

    random = np.random.default_rng(3)
    found = []
    for number in range(40, nodes):
        sources = {int(s) for s in random.integers(max(0, number - 120), number - 20, 2)}
        found += [(f"silver.table_{number:04}", f"silver.table_{s:04}") for s in sources]
    count = len(found)
    space.lake.table(LINEAGE).append(
        pa.table(
            {
                "run_id": ["0" * 32] * count,
                "at": pa.array([dt.datetime.now(dt.UTC)] * count, pa.timestamp("us", "UTC")),
                "table": [table for table, _ in found],
                "column": ["value"] * count,
                "flow": [table for table, _ in found],
                "source": [source for _, source in found],
                "source_column": ["value"] * count,
                "kind": ["direct"] * count,
                "definition": ["1"] * count,
            }
        )
    )


def measure(root: Path, options: argparse.Namespace) -> None:
    """Ask a server of its own for each page."""
    key = quote('["north","M000000"]')
    pages = {
        "Home": "/",
        "Catalog": "/catalog",
        "a table": "/catalog/silver.table_0000",
        "its rows, sorted": "/catalog/gold.features?tab=rows&sort=y",
        "its versions": "/catalog/silver.table_0000?tab=versions",
        "a difference": "/catalog/silver.table_0000/diff?from=0&to=1",
        "Lineage": "/lineage",
        "a column's lineage": "/part/lineage?focus=silver.table_0100&column=value",
        "Runs": "/runs",
        "Fleets": "/fleets",
        "a fleet": "/fleets/load",
        "a fleet, filtered": "/fleets/load?by.region=north&verdict=won&sort=change",
        "its points": "/api/fleets/load/points",
        "a segment": f"/fleets/load/segment?key={key}",
        "its forecast": f"/api/fleets/load/series?key={key}&version=1&against=2",
        "Endpoints": "/endpoints",
        "SQL": "/sql",
    }
    command = [sys.executable, "-m", "shoal.cli", "ui", "--port", "0", "--project", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = urlsplit(server.stdout.readline().split()[4])
            connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=300)
            begun = time.perf_counter()
            while not ready(connection):
                time.sleep(0.05)  # it has no way to tell but to be asked
            took = time.perf_counter() - begun
            found = {name: ask(connection, path, options.repeat) for name, path in pages.items()}
            lake, after = Lake(root / "lake"), {}
            for name, path in pages.items():
                for touched in TOUCHED:
                    table = lake.table(touched)
                    table.append(table.scan().head(0).collect().to_arrow())
                time.sleep(
                    0.1
                )  # of a table that changed just now nothing is kept, not even for one page
                after[name] = ask(connection, path, 0)[0]
        finally:
            server.terminate()
    table = Table(title=f"{options.tables} tables, {options.segments:,} segments, "
                  f"{options.nodes:,} nodes, {os.cpu_count()} cores")  # fmt: skip
    table.add_column("page")
    for name in ("first, ms", "after a change, ms", "middle, ms", "slowest, ms", "kB"):
        table.add_column(name, justify="right")
    for name, (first, times, size) in found.items():
        table.add_row(
            name,
            f"{first * 1000:.0f}",
            f"{after[name] * 1000:.0f}",
            f"{statistics.median(times) * 1000:.0f}",
            f"{max(times) * 1000:.0f}",
            f"{size / 1000:.0f}",
        )
    console = Console()
    console.print(table)
    console.print(f"It answered at once, and with whole pages after {took:.1f} s.")


def ready(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has read what pages need."""
    connection.request("GET", "/", headers={"accept": "text/html"})
    answer = connection.getresponse()
    answer.read()
    return answer.status == 200


def ask(
    connection: http.client.HTTPConnection, path: str, repeat: int
) -> tuple[float, list[float], int]:
    """Seconds of the first answer and of the following ones, and the answer's size."""
    times = []
    body = b""
    for _ in range(repeat + 1):
        begun = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        times.append(time.perf_counter() - begun)
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status}")
    return times[0], times[1:], len(body)


if __name__ == "__main__":
    main()

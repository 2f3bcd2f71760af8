"""From a registered fleet to one that is served: the bundle, its rehearsal, and a promotion on both
paths, in one run.

    python benchmarks/deploy.py [--members 10000] [--swaps 11]

*Hot swap*: a running server follows the registry; from the moment the alias moves to the first answer
of the new version. *Redeploy*: the new version is bundled, rehearsed, and its bundle's server started
until it is ready, which is what a rollout waits for; an image's build, push and pull come on top of it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

MODEL = """
import shoal
from sklearn.linear_model import Ridge


@shoal.model(table="gold.sales", target="y", by=["store"], time="day")
def sales(alpha={alpha}):
    return Ridge(alpha=alpha)
"""
MIB = 2**20


def rows(members: int, days: int = 20) -> pa.Table:
    """A row for each store and day, with eight features."""
    random = np.random.default_rng(0)
    store = np.repeat(np.arange(members), days)
    x = random.normal(size=(8, len(store)))
    return pa.table(
        {
            "store": pa.array(np.char.mod("store-%05d", np.arange(members))).take(pa.array(store)),
            "day": np.tile(np.arange(days), members),
            **{f"x{i}": column for i, column in enumerate(x)},
            "y": x.sum(axis=0) + random.normal(size=len(store)),
        }
    )


@contextlib.contextmanager
def serving(*arguments: object) -> Iterator[tuple[http.client.HTTPConnection, float]]:
    """A connection to a new server, and the seconds until it was ready."""
    command = [sys.executable, "-m", "shoal.cli", "serve", "--port", "0", *map(str, arguments)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        found = None
        while found is None:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{' '.join(command)} ended with {process.wait()}")
            found = re.search(r"Serving at (\S+)", line)
        took = time.perf_counter() - begun
        place = urlsplit(found[1])
        yield http.client.HTTPConnection(place.hostname or "", place.port, timeout=60), took
    finally:
        process.terminate()
        process.wait(60)


def version(connection: http.client.HTTPConnection) -> int:
    """The version that answers now."""
    body = b'{"dataframe_records": [{"store": "store-00007", ' + b", ".join(
        b'"x%d": 0.5' % i for i in range(8)
    )
    connection.request("POST", "/invocations", body + b"}]}", {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return int(answer.headers["shoal-model"].rpartition("/")[2])


def swaps(root: Path, count: int) -> list[float]:
    """Seconds from each move of the alias to the first answer of the version that it moved to."""
    from shoal.workspace import Workspace

    took = []
    with Workspace.open(root) as space, serving("--project", root) as (connection, _):
        now = version(connection)
        for _ in range(count):
            wanted = 3 - now
            begun = time.perf_counter()
            space.tracker.set_alias("sales", "champion", wanted)
            while now != wanted:
                now = version(connection)
            took.append(time.perf_counter() - begun)
    return took


def measure(root: Path, options: argparse.Namespace) -> None:
    """Makes the project, and prints the table."""
    from shoal.deploy import rehearse
    from shoal.workspace import Workspace
    from shoal.workspace.bundles import bundle_model

    (root / "models").mkdir()
    (root / "spark-pipeline.yml").write_text("name: bench\nstorage: lake\nlibraries: []\n")
    for alpha, alias in ((1.0, "champion"), (10.0, "challenger")):
        (root / "models/sales.py").write_text(MODEL.format(alpha=alpha))
        with Workspace.open(root) as space:
            if alias == "champion":
                space.lake.table("gold.sales").append(rows(options.members))
            (report,) = space.train(["sales"], alias=alias)
            assert report.status == "trained", report.error
    with Workspace.open(root) as space:
        begun = time.perf_counter()
        bundle = bundle_model(space, "sales@challenger", root / "bundles")
        made = time.perf_counter() - begun
        begun = time.perf_counter()
        report = rehearse(bundle, memory=512 * MIB)
        rehearsed = time.perf_counter() - begun
        assert report["passed"], report["failures"]
    with serving("--bundle", bundle.folder) as (connection, start):
        assert version(connection) == 2
    took = swaps(root, options.swaps)
    grid = Table(title=f"{options.members:,} members")
    grid.add_column("")
    grid.add_column("", justify="right")
    members = sum(f.stat().st_size for f in bundle.artifact.iterdir())
    for name, value in (
        ("bundle, MB", f"{bundle.size() / 1e6:.1f} ({members / 1e6:.1f} of them members)"),
        ("its packages", f"{bundle.content['packages']}"),
        ("made in, s", f"{made:.2f}"),
        ("fresh environment: MB; s", f"{report['environment_bytes'] / 1e6:.0f}; {report['environment_s']:.1f}"),
        ("rehearsal in all, s", f"{rehearsed:.1f}"),
        ("cold start to ready, s (one core, 512 MiB)", f"{report['cold_start_s']:.2f}"),
        ("its memory, MB", f"{report['memory_bytes'] / 1e6:.0f}"),
        ("its p50; p99, ms", f"{report['load']['p50_ms']:.2f}; {report['load']['p99_ms']:.2f}"),
        ("promotion to served, hot swap: median; most, s", f"{statistics.median(took):.2f}; {max(took):.2f}"),
        ("promotion to served, redeploy, s", f"{made + rehearsed + start:.1f} (without rehearsal {made + start:.1f})"),
    ):  # fmt: skip
        grid.add_row(name, value)
    Console(width=120).print(grid)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--swaps", type=int, default=11)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        measure(Path(folder), parser.parse_args())


if __name__ == "__main__":
    main()

"""The lifecycle of a fleet, by how many versions it has already: each step in seconds.

Register, compare, promote the whole, promote the segments that won, roll back, roll one segment
back, and query, of a fleet with many members, in one process that has done each step once:

    python benchmarks/lifecycle.py
    python benchmarks/lifecycle.py --members 10000 --versions 10 200 1000

Earlier versions are registered by MLflow's own client, each with members of its own in the fleet
table; every version has a move in the audit table and an evaluation.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

MODEL = """
import shoal
from sklearn.linear_model import Ridge


@shoal.model(table="gold.sales", target="y", by=["store"], time="day", promote_if="mae < {gate}")
def sales(alpha={alpha}):
    return Ridge(alpha=alpha)
"""


def rows(members: int, first: int, days: int) -> pa.Table:
    """A row for each store and day."""
    random = np.random.default_rng(first)
    store, day = (
        a.ravel() for a in np.meshgrid(np.arange(members), np.arange(first, first + days))
    )
    x = random.normal(size=(3, len(store)))
    return pa.table(
        {
            "store": pa.array(np.char.mod("store-%05d", np.arange(members))).take(pa.array(store)),
            "day": day,
            **{f"x{i}": column for i, column in enumerate(x)},
            "y": x.sum(axis=0) + random.normal(size=len(store)),
        }
    )


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Trains two versions, and measures each step at each number of versions."""
    from shoal.workspace import Workspace

    (folder / "models").mkdir()
    (folder / "spark-pipeline.yml").write_text("name: bench\nstorage: lake\nlibraries: []\n")

    def train(alpha: float, alias: str) -> None:
        (folder / "models/sales.py").write_text(MODEL.format(alpha=alpha, gate="1e9"))
        with Workspace.open(folder) as space:
            (report,) = space.train(["sales"], alias=alias)
            assert report.status == "trained", report.error

    with Workspace.open(folder) as space:
        space.lake.table("gold.sales").append(rows(options.members, 0, 40))
    train(100.0, "champion")
    train(0.1, "challenger")
    with Workspace.open(folder) as space:
        space.lake.table("gold.sales").append(rows(options.members, 40, options.days))
        took: dict[str, dict[int, float]] = {}
        for count in (3, *options.versions):
            fill(space, count)
            for name, seconds in steps(space).items():
                took.setdefault(name, {})[count] = seconds
    shown = Table(
        title=f"{options.members:,} members, {options.days} new rows each, seconds, "
        f"{os.cpu_count()} cores"
    )
    for column in ("step", *(f"{count:,} versions" for count in options.versions)):
        shown.add_column(column)
    for name, each in took.items():
        shown.add_row(name, *(f"{each[count]:.3f}" for count in options.versions))
    Console().print(shown)


def fill(space: Any, count: int) -> None:
    """Earlier versions, up to a number: registered, with members, moves and evaluations."""
    from mlflow import MlflowClient

    client = MlflowClient(space.tracker.uri, space.tracker.uri)
    first = space.tracker.resolve("sales/1")
    fleet = space.lake.table("shoal.fleet_sales")
    members = fleet.scan(int(first.tags["shoal.members_version"])).head(200).collect().to_arrow()
    tags = {key: value for key, value in first.tags.items() if key.startswith("shoal.")}
    where = client.get_model_version_download_uri("sales", "1")
    (pointers,) = space.tracker.pointers("sales")
    evaluations = space.lake.table("shoal.evaluations_sales")
    few = evaluations.scan().head(200).collect().to_arrow() if evaluations.exists() else None
    for number in range(pointers.newest + 1, count + 1):
        client.create_model_version("sales", where, run_id=first.run_id, tags=tags)
        application = "shoal-fleet-sales"
        made = fleet.transaction(application) + 1
        at = members.schema.get_field_index("fleet_version")
        own = members.set_column(at, "fleet_version", pa.array([made] * len(members), pa.int64()))
        fleet.append(own, app=(application, made), metadata={"fleet_version": str(made)})
        space.audit.move("sales", "staging", number, kind="promote")
        if few is not None:
            evaluations.append(few)


def steps(space: Any) -> dict[str, float]:
    """Seconds of each step."""
    found: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = step()
        found[name] = time.perf_counter() - begun
        return result

    space.tracker.set_alias("sales", "champion", 1)
    timed("evaluate (scoring included)", lambda: space.evaluate("sales", champion="1"))
    timed("promote the whole fleet", lambda: space.promote("sales", 2))
    timed("roll back", lambda: space.rollback("sales"))
    done = timed(
        "promote the segments that won", lambda: space.promote("sales", 2, segments=["won"])
    )
    assert done.composite
    timed("roll one segment back", lambda: space.rollback("sales", segments=["store-00007"]))
    timed("register one more version", lambda: register(space))
    timed("resolve the champion", lambda: space.tracker.resolve("sales@champion"))
    timed("open the champion's fleet", lambda: space.tracker.fleet("sales@champion"))
    timed("history of the aliases", lambda: space.audit.moves("sales"))
    version = space.tracker.resolve("sales@champion").tags["shoal.fleet_version"]
    query = (
        "SELECT segment, mae, origin_version FROM shoal.fleet_sales "
        f"WHERE fleet_version = {version} ORDER BY mae DESC LIMIT 10"
    )
    timed("query the worst members (SQL)", lambda: space.sql(query))
    return found


def register(space: Any) -> None:
    """What a training does after its fits: a run, a logged model and a registered version."""
    from dataclasses import replace

    from shoal.tracking import run_context
    from shoal.workspace.composites import compose_members

    one, two = (space.tracker.resolve(f"sales/{n}") for n in (1, 2))
    composite = compose_members(space, "sales", one, two, ['["store-00001"]'])
    trained = composite.commit(
        space.lake,
        inputs=space.tracker.input_types("sales/1"),
        example=space.tracker.input_example("sales/1"),
        reason="bench",
    )
    context = run_context(space.project.root, project="bench")
    space.tracker.record(replace(trained, tags={}), context, alias=None)
    shutil.rmtree(trained.artifact)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10_000, help="segments (models)")
    parser.add_argument("--days", type=int, default=20, help="new rows in each segment")
    parser.add_argument("--versions", type=int, nargs="+", default=[10, 200], help="how many")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        measure(Path(folder), options)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    main()

"""Throughput of the lake on S3 (moto's server) and Azure (Azurite) against local disk, as ratios.

Each store gets the same work, in turn, several times: the embedded engine writes rows as Parquet, the
lake commits them, and Polars and the engine read the table back. moto and Azurite are test servers on
this machine: the ratios say what the way through an object store costs here, not what a cloud gives.

    python benchmarks/storage.py                  two million rows
    python benchmarks/storage.py --rows 200000 --repeat 1
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from shoal.engines import connect
from shoal.lake import Lake, staged_files
from stores import missing, running_azure, running_s3


def measure(engine, root: str, rows: int) -> dict[str, float]:
    """Seconds of each step on one store."""
    import polars as pl

    took = {}
    table = Lake(root).table("bench.rows")
    frame = engine.spark.range(rows).selectExpr(
        "id", "id % 1000 AS segment", "rand(1) AS x", "rand(2) AS y", "cast(id AS string) AS text"
    )
    with table.staging() as folder:
        start = time.perf_counter()
        frame.write.parquet(folder)
        took["engine writes"] = time.perf_counter() - start
        start = time.perf_counter()
        files = staged_files(folder)
        from pyspark.sql.pandas.types import to_arrow_schema

        table.commit(files, to_arrow_schema(frame.schema), overwrite=table.exists())
        took["commit"] = time.perf_counter() - start
    start = time.perf_counter()
    assert table.scan().select(pl.col("x").sum(), pl.len()).collect()["len"].item() == rows
    took["polars reads"] = time.perf_counter() - start
    start = time.perf_counter()
    read = engine.spark.read.format("delta").load(table.path)
    assert read.groupBy("segment").sum("x", "y").count() == min(1000, rows)
    took["engine reads"] = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(5):
        table.version()
    took["version"] = (time.perf_counter() - start) / 5
    return took


def main() -> None:
    given = argparse.ArgumentParser()
    given.add_argument("--rows", type=int, default=2_000_000)
    given.add_argument("--repeat", type=int, default=3)
    asked = given.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        roots = {"local": str(folder / "lake")}
        for name, running in (("s3", running_s3), ("azure", running_azure)):
            if name == "azure" and (why := missing()):
                print(f"azure is left out: {why}")
                continue
            (folder / name).mkdir()
            cloud = stack.enter_context(running(folder / name))
            import os

            os.environ.update(cloud.environment)
            roots[name] = f"{cloud.bucket()}/lake"
        engine = stack.enter_context(connect())
        for root in roots.values():  # connections and caches
            measure(engine, root, 1000)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in roots}
        for _ in range(asked.repeat):
            for name, root in roots.items():
                found[name].append(measure(engine, root, asked.rows))
    print(f"\n{asked.rows:,} rows; medians of {asked.repeat}, and times local disk's")
    for step in found["local"][0]:
        times = {n: statistics.median(one[step] for one in runs) for n, runs in found.items()}
        told = "   ".join(
            f"{n} {seconds:8.3f} s ({seconds / times['local']:5.2f}x)"
            for n, seconds in times.items()
        )
        print(f"{step:14} {told}")


if __name__ == "__main__":
    main()

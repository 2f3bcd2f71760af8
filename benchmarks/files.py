"""Text files read by Shoal's readers over the engine's own, which stop at the first bad line.

python benchmarks/files.py --rows 1000000
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from shoal.cli import show
from shoal.engines import FileRead, InputFile, connect, dataframe, read_files

SCHEMA = "id BIGINT, meter STRING, at TIMESTAMP, kwh DOUBLE, day DATE, ok BOOLEAN"


def write_rows(folder, rows):
    """One JSON lines file and one CSV file of the same rows."""
    random = np.random.default_rng(0)
    seconds = np.arange(rows).astype("datetime64[s]")
    table = pa.table(
        {
            "id": np.arange(rows),
            "meter": pa.array(np.char.add("m-", (np.arange(rows) % 5_000).astype(str))),
            "at": pa.array(seconds),
            "kwh": random.random(rows).round(4),
            "day": pa.array(seconds.astype("datetime64[D]")),
            "ok": random.random(rows) < 0.9,
        }
    )
    pa.csv.write_csv(table, folder / "rows.csv")
    with (folder / "rows.json").open("w") as file:
        for row in table.to_pylist():
            file.write(json.dumps(row, default=str) + "\n")


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3, help="counted turns, after one warm-up")
    arguments = parser.parse_args()
    table = show.grid(
        f"{arguments.rows:,} rows of six columns into Parquet, median of {arguments.repeat}",
        "file", "the engine's reader, s", "Shoal's, s", "ratio",
        right=["the engine's reader, s", "Shoal's, s", "ratio"],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary, connect() as engine:
        folder = Path(temporary)
        write_rows(folder, arguments.rows)
        for kind in ("json", "csv"):
            path = folder / f"rows.{kind}"
            status = path.stat()
            file = InputFile(path=str(path), size=status.st_size, modified=status.st_mtime_ns)
            options = {"header": "true"} if kind == "csv" else {}
            read = FileRead(
                format=kind, paths=(str(path),), options=options, schema=SCHEMA, streaming=False
            )

            def native(turn, kind=kind, path=path, options=options):
                rows = engine.spark.read.options(**options).schema(SCHEMA)
                out = str(folder / f"native-{kind}-{turn}")
                rows.format(kind).load(str(path)).write.parquet(out)

            def ours(turn, kind=kind, read=read, file=file):
                from pyspark.sql.connect.proto import Plan

                plan = Plan(root=read_files(engine.spark, read, [file], embedded=True))
                out = str(folder / f"ours-{kind}-{turn}")
                dataframe(plan, engine.spark).write.parquet(out)

            turns = range(arguments.repeat + 1)
            pairs = [(timed(lambda t=t: native(t)), timed(lambda t=t: ours(t))) for t in turns][1:]
            theirs, own = (statistics.median(side) for side in zip(*pairs, strict=True))
            table.add_row(kind, f"{theirs:.2f}", f"{own:.2f}", f"{own / theirs:.2f}")
    show.console().print(table)


if __name__ == "__main__":
    main()

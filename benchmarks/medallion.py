"""A four-table medallion: Shoal over the same queries by hand on Sail, with Polars, and on PySpark.

Every peer is a process of its own that reads the same Parquet landing files and writes the same four
Delta tables; at the end their gold tables must be equal. Memory is the greatest proportional set size
(PSS) of the whole process tree. "More data" lands one hundredth of the rows again.

    python benchmarks/medallion.py                              two million rows
    python benchmarks/medallion.py --rows 20000000 --repeat 1   the full size
    python benchmarks/medallion.py --with-spark                 also PySpark (needs Java 17)
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl

from shoal.cli import show
from shoal.engines import SparkHome, make_spark_home
from shoal.errors import EngineError
from shoal.lake import Lake

PEERS = Path(__file__).parent / "peers"
FILE_ROWS = 1_000_000


def orders(first, rows):
    """Rows ``first`` to ``first + rows``, always the same ones."""
    random = np.random.default_rng([7, first])
    at = (
        np.datetime64("2026-01-01", "us")
        + np.sort(random.integers(0, 90 * 86_400, rows)) * 1_000_000
    )
    channels = pl.Series(["web", " Web ", "shop", "Phone", "partner", None])
    order = np.arange(first, first + rows)
    return pl.DataFrame(
        {
            "order_id": order,
            "customer": random.integers(0, 200_000, rows, dtype=np.int32),
            "product": random.integers(0, 1_000, rows, dtype=np.int32),
            "at": pl.Series(at).dt.replace_time_zone("UTC"),
            "quantity": random.integers(1, 10, rows, dtype=np.int32),
            "cents": random.integers(-2_000, 200_000, rows),
            "channel": channels.gather(random.integers(0, 6, rows)),
            "note": "order " + pl.Series(order % 50_000).cast(pl.String),
        }
    )


def generate(root, rows, batches=3):
    """Landing files, later files of a hundredth of the rows each, and the products."""
    (root / "landing").mkdir(parents=True)
    (root / "later").mkdir()
    for first in range(0, rows, FILE_ROWS):
        path = root / f"landing/{first:012}.parquet"
        orders(first, min(FILE_ROWS, rows - first)).write_parquet(path)
    for batch in range(batches):
        first = rows + batch * (rows // 100)
        orders(first, rows // 100).write_parquet(root / f"later/{first:012}.parquet")
    for path in root.glob("l*/*.parquet"):
        os.utime(path, (path.stat().st_mtime - 600,) * 2)
    product = np.arange(1_000, dtype=np.int32)
    names = pl.Series([f"category {i}" for i in range(20)])
    products = pl.DataFrame({"product": product, "category": names.gather(product % 20)})
    Lake(root / "lake").table("ref.products").append(products.to_arrow())
    (root / "products").symlink_to(root / "lake/ref/products")


def tree(root):
    """A process and all below it."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, wave = [], [root]
    while wave:
        found += wave
        wave = [pid for pid, parent in parents.items() if parent in wave]
    return found


def memory(pids):
    """Their proportional set size in bytes."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def run(*command):
    """Runs a peer; gives what it printed, with its wall time and its peak memory."""
    begun = time.perf_counter()
    peak = 0
    with subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, text=True
    ) as peer:
        out = []
        reader = threading.Thread(target=lambda: out.append(peer.stdout.read()))
        reader.start()
        while peer.poll() is None:
            peak = max(peak, memory(tree(peer.pid)))
            time.sleep(0.05)
        reader.join()
    if peer.returncode:
        raise SystemExit(f"{command} ended with {peer.returncode}")
    found = json.loads(out[0].splitlines()[-1])
    return {**found, "wall": time.perf_counter() - begun, "peak": peak}


def spark_home(make):
    """A PySpark that can write Delta; None when it is not there."""
    try:
        return make_spark_home() if make else SparkHome.find()
    except EngineError as error:
        if make:
            raise SystemExit(str(error)) from error
        return None


def same(ours, theirs):
    """Whether a by-hand table holds the rows that ours had after its full refresh."""
    frames = [pl.read_delta(str(ours), version=0), pl.read_delta(str(theirs))]
    columns = sorted(frames[0].columns)
    one, other = (f.select(columns).cast({pl.UInt32: pl.Int64}).sort(columns) for f in frames)
    return one.equals(other.cast(dict(one.schema)))


def hand(name, root, output, repeat, *command):
    """A by-hand peer: medians of its parts."""
    runs = []
    for _ in range(repeat):
        shutil.rmtree(output, ignore_errors=True)
        runs.append(run(*command))
    for table in ("daily", "categories"):
        assert same(root / "lake/gold" / table, output / table), f"{name}: {table} differs"
    shutil.rmtree(output)
    middle = {key: statistics.median(r[key] for r in runs) for key in ("start", "full", "wall")}
    return {**middle, "peak": max(r["peak"] for r in runs)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each part; medians are told")
    parser.add_argument(
        "--folder", type=Path, help="where the data goes (default: a temporary one)"
    )
    parser.add_argument(
        "--with-spark", action="store_true", help="makes the PySpark if it is missing"
    )
    parser.add_argument("--json", action="store_true", help="prints the figures as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        report(given, Path(temporary) / "project", Path(temporary) / "by-hand")


def report(given, root, output):
    peer, repeat = [sys.executable, PEERS / "with_shoal.py"], given.repeat
    generate(root, given.rows)
    off = run(*peer, root, "off", repeat)
    on = run(*peer, root, "on", repeat)
    hands = {
        "Sail": hand("Sail", root, output, repeat,
                     sys.executable, PEERS / "spark.py", root, output, "sail"),
        "Polars": hand("Polars", root, output, repeat,
                       sys.executable, PEERS / "with_polars.py", root, output),
    }  # fmt: skip
    if home := spark_home(given.with_spark):
        # Its pyspark comes before the client's.
        command = (
            "env",
            f"PYTHONPATH={home.root / 'python'}",
            f"SPARK_HOME={home.folder}",
            sys.executable,
            PEERS / "spark.py",
            root,
            output,
            home.root / "jars",
        )
        hands["PySpark"] = hand("PySpark", root, output, repeat, *command)
    small = root.with_name("graph")
    generate(small, 1_000)
    graph = run(*peer, small, "graph", 1)
    if given.json:
        print(json.dumps({"off": off, "on": on, "graph": graph, **hands}))
        return
    middle = {key: statistics.median(on[key]) for key in ("full", "more", "none")}
    plain = statistics.median(off["full"])
    sail = hands["Sail"]["full"]
    title = f"{given.rows:,} rows, four tables, medians of {repeat}"
    table = show.grid(title, "work", "seconds", "over Sail by hand", "peak MB",
                      right=["seconds", "over Sail by hand", "peak MB"])  # fmt: skip

    def line(name, seconds, peak=None):
        size = "" if peak is None else f"{peak / 1e6:,.0f}"
        table.add_row(name, f"{seconds:.2f}", f"{seconds / sail:.2f}", size)

    line("Shoal, full refresh", plain, off["peak"])
    line("Shoal, full refresh with two expectations", middle["full"], on["peak"])
    line("Shoal, 1% new data", middle["more"])
    line("Shoal, nothing new", middle["none"])
    for name, found in hands.items():
        line(f"{name} by hand", found["full"], found["peak"])
    show.console().print(table)
    print(f"1% new data: {middle['more'] / middle['full']:.1%} of a full refresh")
    ends = {name: found["start"] + found["full"] for name, found in hands.items()}
    ours = on["start"] + middle["full"]
    for name, end in ends.items():
        started = hands[name]["full"] / middle["full"]
        print(f"Shoal over {name}: {end / ours:.2f}x as fast from the start of the session, "
              f"{started:.2f}x once it is there")  # fmt: skip
    if "PySpark" not in hands:
        print("No PySpark: --with-spark, or shoal spark setup, makes one")
    print(
        f"Nothing new in a graph of 20 tables: {statistics.median(graph['none']):.2f} s in process"
    )
    print("By table:", json.dumps(on["tables"]))


if __name__ == "__main__":
    main()

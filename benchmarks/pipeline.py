"""The flights example's tables: Shoal's refresh over the same queries run by hand on the engine.

By hand: each query is run once, in order, on the embedded engine and written with the engine's own
Delta writer. Files are read with the engine's native JSON and CSV readers, which know no source file
and stop at the first bad line; rows that an expectation would drop are filtered. Nothing is
remembered, so there is no "by hand" for a refresh with nothing new: its ratio is to the full one.

    python benchmarks/pipeline.py --repeat 3
"""

import argparse
import runpy
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from pyspark.sql import functions as F
from pyspark.sql.connect.proto import Plan
from pyspark.sql.types import StructType

from shoal.cli import show
from shoal.cli.project import write_template
from shoal.engines import FileRead, dataframe, plan_of, rewrite, version_relation
from shoal.pipeline import Kind
from shoal.workspace import Workspace


def by_hand(space, folder):
    """Runs every table's query on the engine itself, into Delta tables below ``folder``."""
    spark, graph, lake = space.engine.spark, space.graph, space.lake

    def files(read):
        declared = spark._parse_ddl(read.schema)
        clean = StructType([field for field in declared if field.name != "_corrupt_record"])
        frame = spark.read.options(**read.options).schema(clean)
        paths = [str(space.project.root / path) for path in read.paths]
        frame = (frame.json if read.format == "json" else frame.csv)(paths)
        frame = frame.withColumn("_corrupt_record", F.lit(None).cast("string"))
        path = F.struct(F.lit("").alias("file_path"))
        return plan_of(frame.withColumn("_metadata", path)).root

    def replace(read):
        if isinstance(read, FileRead):
            return files(read)
        return version_relation(str(folder / str(lake.name(read.name))), 0)

    for node in graph.nodes.values():
        assert node.dataset.kind is not Kind.TEMPORARY_VIEW
        (query,) = node.queries
        frame = dataframe(Plan(root=rewrite(query.plan, replace).root), spark).drop("_metadata")
        for expected in query.flow.expectations:
            if expected.action == "drop":
                frame = frame.filter(expected.condition)
        frame.write.format("delta").save(str(folder / str(node.name)))


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="counted turns, after one warm-up")
    repeat = parser.parse_args().repeat
    times = {"by hand": [], "full refresh": [], "nothing new": []}
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary) / "flights"
        write_template("flights", project, "flights")
        rows = runpy.run_path(str(project / "land.py"))["land"](
            project / "landing", list(range(1, 13))
        )
        with Workspace.open(project) as space:
            for turn in range(repeat + 1):
                hand = Path(temporary) / f"hand-{turn}"
                taken = {"by hand": timed(lambda hand=hand: by_hand(space, hand))}
                everything = space.options(full_refresh_all=True)
                taken["full refresh"] = timed(lambda run=everything: space.refresh(run))
                nothing = space.options()
                taken["nothing new"] = timed(lambda run=nothing: space.refresh(run))
                shutil.rmtree(hand)
                for name, seconds in taken.items():
                    times[name] += [seconds] if turn else []
    middle = {name: statistics.median(values) for name, values in times.items()}
    title = f"{rows:,} flights, nine tables, median of {repeat}"
    table = show.grid(
        title, "refresh", "seconds", "over by hand", right=["seconds", "over by hand"]
    )
    for name, seconds in middle.items():
        table.add_row(name, f"{seconds:.2f}", f"{seconds / middle['by hand']:.2f}")
    show.console().print(table)


if __name__ == "__main__":
    main()

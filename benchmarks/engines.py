"""The same work on embedded Sail, on a Sail cluster, and on Apache Spark, each on this machine.

Every engine is a process of its own with the servers that it starts; memory is the greatest
proportional set size of that tree. Three parts: the flights demo's tables, models and scores; the
four-table medallion; a fleet of linear models, on Spark also by ``applyInPandas``, as one does it
there by hand.

    python benchmarks/engines.py                                  5 M rows, 5,000 models, two months
    python benchmarks/engines.py --rows 20000000 --months 12      the full sizes
    python benchmarks/engines.py --parts fleet --engines spark
"""

import argparse
import json
import os
import runpy
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from medallion import PEERS, generate, run
from shoal.cli import show
from shoal.cli.project import write_template

ENGINES = ("embedded", "sail-cluster", "spark")
FEATURES = 8


def seconds(work):
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def profile(root, engine):
    (root / "shoal.toml").write_text(f'[profiles.default]\nengine = "{engine}"\n')


# The demo ----------------------------------------------------------------------------------------


def demo(engine, root, months):
    """Raw flights to predictions, then one more month, then nothing new."""
    from shoal.workspace import Workspace

    write_template("flights", root, "flights")
    profile(root, engine)
    land = runpy.run_path(str(root / "land.py"))["land"]
    land(root / "landing", list(range(1, months)))
    found = {}
    with Workspace.open(root) as space:
        found["start"], _ = seconds(lambda: space.engine)
        found["first run"], first = seconds(lambda: space.run(space.options()))
        land(root / "landing", [months])
        found["one more month"], second = seconds(lambda: space.run(space.options()))
        found["nothing new"], third = seconds(lambda: space.run(space.options()))
        for report in (first, second, third):
            errors = [one.error for one in (*report.tables, *report.models, *report.scores)]
            if report.failed:
                raise SystemExit("\n".join(filter(None, errors)))
        scored = space.lake.table("gold.delay_predictions").size()[0]
    return found | {"predictions": scored}


# The medallion -----------------------------------------------------------------------------------


def medallion(engine, root, rows, repeat):
    """Shoal's medallion of benchmarks/medallion.py."""
    if not (root / "landing").exists():
        generate(root, rows)
    profile(root, engine)
    return run(sys.executable, PEERS / "with_shoal.py", root, "on", repeat)


# A fleet -----------------------------------------------------------------------------------------


def fleet(engine, root, segments, rows, repeat):
    """A fleet on the engine's workers; on Spark in turns with applyInPandas."""
    import fleet as bench
    from shoal.engines import connect
    from shoal.lake import Lake
    from shoal.training import train

    if not (root / "lake").exists():
        bench.write_table(root, *bench.made_up(segments, rows, FEATURES))
    lake = Lake(root / "lake")
    found = {"shoal": [], "one by one": [], "applyInPandas": []}
    began, opened = seconds(lambda: connect(engine))
    with opened as session:
        for turn in range(repeat):
            for name, batched in (("shoal", True), ("one by one", False)):
                took, trained = seconds(
                    lambda batched=batched: train(
                        bench.declared(batched=batched), lake, spark=session.spark
                    )
                )
                assert trained.metrics["segments"] == segments
                found[name].append(took)
            if engine == "spark":
                out = root / f"by-hand-{turn}"
                took, _ = seconds(lambda out=out: by_hand(session.spark, lake, out, segments))
                found["applyInPandas"].append(took)
    return found | {"start": began}


def by_hand(spark, lake, out, segments):
    """What one writes on Spark: a group, a fit, its metric and the pickled model as a row."""
    table = lake.table("gold.sales")

    def fit(rows):
        import pickle

        import pandas as pd
        from sklearn.linear_model import Ridge
        from sklearn.metrics import mean_absolute_error
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            rows = rows.sort_values("day")
            names = [f"x{i}" for i in range(8)]
            cut = int(len(rows) * 0.8)
            model = make_pipeline(StandardScaler(), Ridge())
            model.fit(rows[names][:cut], rows["sales"][:cut])
            mae = mean_absolute_error(rows["sales"][cut:], model.predict(rows[names][cut:]))
            model.fit(rows[names], rows["sales"])
        return pd.DataFrame(
            {"store": [rows["store"].iloc[0]], "mae": [mae], "model": [pickle.dumps(model)]}
        )

    frame = spark.read.format("delta").load(table.path)
    fitted = frame.groupBy("store").applyInPandas(fit, "store string, mae double, model binary")
    fitted.write.format("delta").save(str(out))
    assert spark.read.format("delta").load(str(out)).count() == segments


# -------------------------------------------------------------------------------------------------


def step(part, engine, root, given):
    """One part in this process; prints JSON."""
    sizes = {
        "demo": lambda: demo(engine, root, given.months),
        "fleet": lambda: fleet(engine, root, given.segments, given.segment_rows, given.repeat),
    }
    print(json.dumps(sizes[part]()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="*", default=ENGINES, choices=ENGINES)
    parser.add_argument("--parts", nargs="*", default=("demo", "medallion", "fleet"))
    parser.add_argument("--months", type=int, default=2, help="of the demo's flights")
    parser.add_argument("--rows", type=int, default=5_000_000, help="of the medallion")
    parser.add_argument("--segments", type=int, default=5_000, help="models of the fleet")
    parser.add_argument("--segment-rows", type=int, default=200, help="rows of each")
    parser.add_argument("--repeat", type=int, default=1, help="turns; medians are told")
    parser.add_argument("--json", action="store_true", help="prints the figures as JSON")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        part, engine, root = given.step
        step(part, engine, Path(root), given)
        return
    with tempfile.TemporaryDirectory(prefix="shoal-engines-") as temporary:
        found = {part: measure(part, given, Path(temporary) / part) for part in given.parts}
    if given.json:
        print(json.dumps(found))
        return
    for part, by_engine in found.items():
        table = show.grid(f"{part}, {os.cpu_count()} cores", "what", *by_engine, right=[*by_engine])
        for name in next(iter(by_engine.values())):
            cells = [one.get(name) for one in by_engine.values()]
            table.add_row(name, *("" if c is None else f"{c:,.2f}" for c in cells))
        show.console().print(table)


def measure(part, given, folder):
    """One part on each engine, over the same data."""
    by_engine = {}
    for engine in given.engines:
        if part == "medallion":
            folder.mkdir(exist_ok=True)
            found = medallion(engine, folder / "project", given.rows, given.repeat)
            found = {key: found[key] for key in ("start", "full", "more", "none", "wall", "peak")}
        else:
            root = folder / engine if part == "demo" else folder / "data"
            root.mkdir(parents=True, exist_ok=True)
            sizes = ["--months", given.months, "--segments", given.segments]
            sizes += ["--segment-rows", given.segment_rows, "--repeat", given.repeat]
            found = run(sys.executable, __file__, "--step", part, engine, root, *map(str, sizes))
        middle = {key: float(np.median(value)) for key, value in found.items() if value != []}
        middle["peak MB"] = middle.pop("peak") / 1e6
        by_engine[engine] = middle
        print(
            part, engine, {k: round(v, 2) for k, v in middle.items()}, file=sys.stderr, flush=True
        )
        if part == "medallion":
            for name in ("bronze", "silver", "gold", "shoal"):
                shutil.rmtree(folder / "project/lake" / name, ignore_errors=True)
    return by_engine


if __name__ == "__main__":
    main()

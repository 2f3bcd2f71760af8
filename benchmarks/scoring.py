"""Scoring a fleet against one vectorised model of the same size on the same rows.

    python benchmarks/scoring.py [--rows 5000000] [--members 5000] [--features 8]

Prints the seconds of both in rounds that take turns, the ratio of the medians, the bytes and
microseconds of a member, and how far the peak memory of a process grows while it scores a Parquet
file of the same rows in batches.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shoal.models import FeatureField, Fleet, FleetHeader, write_fleet
from shoal.models.codecs import Encoder
from shoal.models.segments import segment_key

BATCH = 500_000


def make_fleet(folder: Path, members: int, features: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    encoder, rows, templates = Encoder(), [], {}
    seconds = 0.0
    for i in range(members):
        x = random.normal(size=(60, features))
        fitted = make_pipeline(StandardScaler(), Ridge()).fit(x, x @ random.normal(size=features))
        begun = time.perf_counter()
        encoded = encoder.encode(fitted)
        seconds += time.perf_counter() - begun
        templates.setdefault(encoded.template, f"t{len(templates)}")
        rows.append({"segment": segment_key((f"s{i}",)), "level": 0, "status": "ok",
                     "model_used": segment_key((f"s{i}",)), "reason": None,
                     "template": templates[encoded.template], "state": encoded.state})  # fmt: skip
    header = FleetHeader(
        model="bench", fleet_version=1, task="regression", by=("segment",), target="y",
        features=tuple(FeatureField(name=f"x{i}", dtype="double") for i in range(features)),
        levels=(("segment",),), templates={v: k for k, v in templates.items()},
        table="gold.t", table_version=0,
    )  # fmt: skip
    write_fleet(folder, header, pa.Table.from_pylist(rows))
    size = statistics.mean(len(row["state"]) for row in rows)
    return {"bytes a member": size, "encode us a member": 1e6 * seconds / members}


def make_rows(count: int, members: int, features: int) -> pa.Table:
    random = np.random.default_rng(1)
    names = pa.array([f"s{i}" for i in range(members)])
    columns = {"segment": names.take(pa.array(random.integers(0, members, count)))}
    return pa.table(columns | {f"x{i}": random.normal(size=count) for i in range(features)})


def one_model(rows: pa.Table, features: int) -> np.ndarray:
    """One scaler and one matrix product over the same Arrow columns, in the same batches."""
    mean, scale, weight = np.full(features, 0.1), np.full(features, 1.1), np.arange(features) + 0.5
    found = []
    for start in range(0, rows.num_rows, BATCH):
        batch = rows.slice(start, BATCH)
        matrix = np.empty((batch.num_rows, features))
        for i in range(features):
            matrix[:, i] = batch.column(f"x{i}").to_numpy()
        found.append((matrix - mean) / scale @ weight + 1.0)
    return np.concatenate(found)


def fleet_model(rows: pa.Table, fleet: Fleet) -> None:
    for start in range(0, rows.num_rows, BATCH):
        fleet.predict(rows.slice(start, BATCH))


def timed(work) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def peak(folder: str, file: str) -> None:
    """In a process of its own: how far the peak memory grows over scoring a file."""
    fleet = Fleet.open(folder)
    source = pq.ParquetFile(file)
    fleet.predict(pa.Table.from_batches([next(source.iter_batches(1000))]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for batch in source.iter_batches(batch_size=BATCH):
        fleet.predict(pa.Table.from_batches([batch]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=5_000_000)
    options.add_argument("--members", type=int, default=5_000)
    options.add_argument("--features", type=int, default=8)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.peak:
        peak(*asked.peak)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "fleet"
        found = make_fleet(folder, asked.members, asked.features)
        rows = make_rows(asked.rows, asked.members, asked.features)
        begun = time.perf_counter()
        fleet = Fleet.open(folder)
        found["open s"] = time.perf_counter() - begun
        found["first batch s"] = timed(lambda: fleet.predict(rows.slice(0, BATCH)))
        one, many = [], []
        for _ in range(asked.rounds):
            one.append(timed(lambda: one_model(rows, asked.features)))
            many.append(timed(lambda: fleet_model(rows, fleet)))
        found |= {"one model s": statistics.median(one), "fleet s": statistics.median(many)}
        found["ratio"] = found["fleet s"] / found["one model s"]
        file = str(Path(place) / "rows.parquet")
        pq.write_table(rows, file, row_group_size=BATCH)
        command = [sys.executable, __file__, "--peak", str(folder), file]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found["peak MiB over 1,000 rows"] = int(out) / 1024
        found["rows MiB"] = rows.nbytes / 2**20
    print(json.dumps({k: round(v, 4) for k, v in found.items()}, indent=1))


if __name__ == "__main__":
    main()

"""Small real fleets for tests: a Delta table, fitted scikit-learn members, an artifact folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shoal.lake import Lake
from shoal.models import (
    FeatureField,
    FleetHeader,
    ModelDeclaration,
    TrainedFleet,
    encode,
    write_fleet,
)
from shoal.models.segments import segment_key
from shoal.tracking import RunContext

FEATURES = ("distance", "hour", "dep_delay", "holiday")
COLUMNS = ("carrier", "dest", *FEATURES)
SEGMENTS = (("UA", "IAH"), ("UA", "ORD"), ("AA", "MIA"), ("AA", "DFW"))


CONTEXT = RunContext(
    project="flights",
    code_commit="0a1b2c3",
    code_dirty=True,
    environment_hash="e" * 64,
    user="ann",
)
ROW = {
    "carrier": "UA", "dest": "IAH", "distance": 1400, "hour": 9, "dep_delay": 2.5, "holiday": True
}  # fmt: skip


def flights(rows: int = 80, seed: int = 0) -> pa.Table:
    """Flights of four routes: ``distance`` has no gaps, ``hour`` and ``dep_delay`` have some."""
    random = np.random.default_rng(seed)
    route = random.integers(0, len(SEGMENTS), rows)
    distance = random.integers(100, 3_000, rows)
    hour = random.integers(0, 24, rows)
    delay = random.normal(size=rows)
    holiday = random.random(rows) < 0.2
    gap = np.arange(rows) % 11 == 3
    return pa.table(
        {
            "carrier": [SEGMENTS[i][0] for i in route],
            "dest": [SEGMENTS[i][1] for i in route],
            "distance": pa.array(distance, pa.int64()),
            "hour": pa.array(hour, pa.int64(), mask=gap),
            "dep_delay": pa.array(delay, pa.float64(), mask=gap),
            "holiday": pa.array(holiday),
            "arr_delay": delay * (1 + route) + hour / 10 - distance / 500 + holiday,
        }
    )


def _fitted(rows: pa.Table, *, takes_gaps: bool) -> Any:
    frame = rows.to_pandas()
    features = frame[list(FEATURES)].astype(float)
    if not takes_gaps:
        frame, features = frame[features.notna().all(axis=1)], features.dropna()
        return make_pipeline(StandardScaler(), Ridge()).fit(features.values, frame["arr_delay"])
    steps = make_pipeline(SimpleImputer(), StandardScaler(), Ridge())
    return steps.fit(features.values, frame["arr_delay"])


def trained_fleet(folder: Path, *, name: str = "delay", seed: int = 0) -> TrainedFleet:
    """Fit one member per route, one per carrier and a global one; ``AA`` refuses gaps.

    The route (AA, DFW) falls back to AA. The table ``gold.flights`` below ``folder / "lake"`` gets
    one more version per call.
    """
    rows = flights(seed=seed)
    table = Lake(folder / "lake").table("gold.flights")
    version = table.append(rows)
    groups: list[tuple[str, ...]] = [*SEGMENTS, ("UA",), ("AA",), ()]
    templates: dict[str, str] = {}
    members = []
    for key in groups:
        fallback = key == ("AA", "DFW")
        mask = np.ones(rows.num_rows, dtype=bool)
        for column, value in zip(("carrier", "dest"), key, strict=False):
            mask &= np.asarray(rows.column(column).to_pylist()) == value
        encoded = encode(_fitted(rows.filter(pa.array(mask)), takes_gaps=key[:1] != ("AA",)))
        templates.setdefault(encoded.template, f"t{len(templates)}")
        members.append(
            {
                "segment": segment_key(key),
                "level": 2 - len(key),
                "status": "fallback" if fallback else "ok",
                "model_used": segment_key(key[:1] if fallback else key),
                "reason": "3 training rows, fewer than 30" if fallback else "",
                "template": None if fallback else templates[encoded.template],
                "state": None if fallback else encoded.state,
                "interval": None if fallback else 1.0 + len(key),
            }
        )
    artifact = folder / f"artifact-{name}-{version}"
    header = FleetHeader(
        model=name,
        fleet_version=version + 1,
        task="regression",
        by=("carrier", "dest"),
        features=tuple(FeatureField(name=f, dtype=str(rows.field(f).type)) for f in FEATURES),
        target="arr_delay",
        levels=(("carrier", "dest"), ("carrier",), ()),
        templates={ident: template for template, ident in templates.items()},
        table="gold.flights",
        table_version=version,
        interval=0.9,
    )
    write_fleet(artifact, header, pa.Table.from_pylist(members))
    return TrainedFleet(
        declaration=ModelDeclaration(
            name=name,
            table="gold.flights",
            target="arr_delay",
            by=("carrier", "dest"),
            params={"alpha": 1.0},
            function=trained_fleet,
            location="models/delay.py:7",
        ),
        fleet_version=version + 1,
        table="gold.flights",
        table_version=version,
        table_id=table.id(),
        table_path=table.path,
        members_table=f"shoal.fleet_{name}",
        members_version=version,
        artifact=artifact,
        params={"alpha": "1.0"},
        metrics={
            "mae_mean": 1.5,
            "mae_p50": 1.4,
            "mae_p90": 2.0,
            "mae_p99": float("nan"),
            "segments": 4,
            "segments_ok": 3,
            "segments_fallback": 1,
            "segments_failed": 0,
            "rows": rows.num_rows,
        },
        seed=7,
        input_example=rows.select(["carrier", "dest", *FEATURES]).slice(0, 5),
        seconds=1.25,
        failures={"3 training rows, fewer than 30": 1},
    )

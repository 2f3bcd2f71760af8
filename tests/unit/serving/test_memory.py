"""Many members in one process: what is decoded stays within its budget."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

_SCRIPT = """
import sys, json, random, resource
from shoal.models import Fleet

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

folder, members, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
fleet = Fleet.open(folder, memory=memory)
opened = resident()
random.seed(0)
import pyarrow as pa
for _ in range(10):
    asked = random.sample(range(members), members // 10)
    rows = pa.table({"meter": [f"m{i}" for i in asked], "x0": [float(i) for i in asked],
                     "x1": [1.0] * len(asked)})
    found = fleet.predict(rows)["prediction"].to_pylist()
    assert None not in found
print(json.dumps([opened, resident(), len(fleet._cache)]))
"""


def fleet_of(folder: Path, estimator: object, members: int) -> Path:
    """An artifact of many members that have one fitted state."""
    from shoal.models import FeatureField, FleetHeader, encode, write_fleet

    stored = encode(estimator)
    keys = pa.array([f'["m{i}"]' for i in range(members)])
    rows = pa.table(
        {
            "segment": keys,
            "level": pa.repeat(pa.scalar(0, pa.int8()), members),
            "status": pa.repeat(pa.scalar("ok"), members),
            "model_used": keys,
            "reason": pa.repeat(pa.scalar(""), members),
            "template": pa.repeat(pa.scalar("t0"), members),
            "state": pa.repeat(pa.scalar(stored.state, pa.large_binary()), members),
        }
    )
    header = FleetHeader(
        model="meters",
        fleet_version=1,
        task="regression",
        by=("meter",),
        features=tuple(FeatureField(name=f"x{i}", dtype="double") for i in range(2)),
        target="y",
        levels=(("meter",), ()),
        templates={"t0": stored.template},
        table="gold.meters",
        table_version=0,
    )
    write_fleet(folder, header, rows)
    return folder


def measured(folder: Path, members: int, memory: int) -> tuple[float, float, int]:
    """Megabytes after opening and after predicting, and how many members are decoded."""
    import json

    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(folder), str(members), str(memory)],
        capture_output=True, text=True, check=True, timeout=280,
    )  # fmt: skip
    opened, after, kept = json.loads(done.stdout)
    return opened, after, kept


@pytest.mark.slow
def test_a_hundred_thousand_lines_are_served_by_one_process(tmp_path: Path) -> None:
    import numpy as np
    from sklearn.linear_model import Ridge

    line = Ridge().fit(np.eye(2), [1.0, 2.0])
    folder = fleet_of(tmp_path / "fleet", line, 100_000)
    opened, after, kept = measured(folder, 100_000, 2**28)
    assert after < 400, f"{opened:.0f} MB opened, {after:.0f} MB after all were asked"
    assert kept == 0, "lines are no decoded members"


@pytest.mark.slow
def test_decoded_members_stay_within_the_budget(tmp_path: Path) -> None:
    import numpy as np
    from sklearn.tree import DecisionTreeRegressor

    x = np.random.default_rng(0).normal(size=(400, 2))
    tree = DecisionTreeRegressor(random_state=0).fit(x, x.sum(axis=1))
    folder = fleet_of(tmp_path / "fleet", tree, 5_000)
    budget = 32 * 2**20
    opened, after, kept = measured(folder, 5_000, budget)
    assert 10 < kept < 1_000
    # The libraries themselves and the mapped file's pages are no decoded members.
    mapped = (folder / "members.arrow").stat().st_size / 2**20
    assert after < opened + budget / 2**20 + mapped + 150, (opened, after, kept)

"""Training loses a worker, or its person's patience."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from shoal.errors import TrainingError
from shoal.lake import Lake
from shoal.models import Fleet, ModelDeclaration, collecting_models, model
from shoal.training import train


class Deadly(Ridge):
    """Kills its process on the segments whose targets are around 1000 or 2000."""

    def fit(self, features, target):
        level = round(float(target[: len(target) // 2].mean()), -3)
        if level == 1000:
            os.kill(os.getpid(), signal.SIGSEGV)
        if level == 2000:
            os._exit(3)
        return super().fit(features, target)


def descendants(root: int) -> list[int]:
    """Living processes below one, zombies left out, from /proc."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            parents[int(entry.parent.name)] = int(parent)
    found, wave = [], [root]
    while wave:
        wave = [pid for pid, parent in parents.items() if parent in wave]
        found += wave
    return found


def gone(pids: list[int], seconds: float = 30.0) -> bool:
    """Whether all have ended within that time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        states = [Path(f"/proc/{pid}/stat") for pid in pids]
        if not any(s.exists() and ") Z " not in s.read_text() for s in states):
            return True
        time.sleep(0.02)
    return False


pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def declare(function, **changes) -> ModelDeclaration:
    fields = {"table": "gold.sales", "target": "y", "by": ["region", "store"], "name": "sales"}
    with collecting_models() as found:
        model(**(fields | changes))(function)
    return found[0]


def lake_of(folder: Path, levels: dict[int, float], stores: int = 40, rows: int = 60) -> Lake:
    random = np.random.default_rng(0)
    store = np.repeat(np.arange(stores), rows)
    x = random.normal(size=stores * rows)
    shift = np.array([levels.get(s, 0.0) for s in range(stores)])[store]
    table = pa.table({"region": store // 10, "store": store, "x": x, "y": x + shift})
    lake = Lake(folder)
    lake.table("gold.sales").append(table)
    return lake


def test_a_dead_worker_costs_only_the_segment_that_killed_it(tmp_path) -> None:
    before = set(descendants(os.getpid()))
    lake = lake_of(tmp_path, {7: 1000.0, 8: 2000.0, 33: 1000.0})
    found = train(declare(Deadly), lake, workers=2)
    rows = lake.table("shoal.fleet_sales").scan().collect().to_dicts()
    status = {row["segment"]: row for row in rows}
    assert status['["0","7"]']["reason"] == f"worker died (signal {signal.SIGSEGV.value})"
    assert status['["0","8"]']["reason"] == "worker ended (exit code 3)"
    assert status['["0","7"]']["status"] == "failed"
    assert status['["0","7"]']["model_used"] == '["0"]'
    assert found.metrics["segments_failed"] == 3
    assert found.metrics["segments_ok"] == 37
    given = pa.table({"region": [0], "store": [7], "x": [1.0]})
    explained = Fleet.open(found.artifact, modules=[__name__]).predict(given, explain=True)
    assert explained["fallback"].to_pylist() == [True]
    assert set(descendants(os.getpid())) <= before


def test_when_every_fit_dies_nothing_is_committed(tmp_path) -> None:
    before = set(descendants(os.getpid()))
    lake = lake_of(tmp_path, dict.fromkeys(range(4), 1000.0), stores=4)
    with pytest.raises(TrainingError, match=r"no segment could be fitted: worker died"):
        train(declare(Deadly), lake, workers=2)
    assert not lake.table("shoal.fleet_sales").exists()
    assert set(descendants(os.getpid())) <= before


class Costly(Ridge):
    """Takes too long, too much memory, or is killed, by the level of its targets."""

    def fit(self, features, target):
        level = round(float(target[: len(target) // 2].mean()), -3)
        if level == 1000:
            while True:  # as a fit that never converges
                np.linalg.svd(features)
        if level == 2000:
            most = 1 << 33
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            np.ones(1 << 31)
        if level == 3000:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
        return super().fit(features, target)


def test_time_and_memory_cost_only_the_segments_that_took_too_much(tmp_path) -> None:
    lake = lake_of(tmp_path, {7: 1000.0, 8: 2000.0, 33: 3000.0})
    found = train(declare(Costly, timeout=1.0), lake, workers=2)
    rows = lake.table("shoal.fleet_sales").scan().collect().to_dicts()
    reasons = {r["segment"]: r["reason"] for r in rows if r["status"] == "failed"}
    assert reasons == {
        '["0","7"]': "worker stopped: the fit took longer than the model's timeout",
        '["0","8"]': reasons['["0","8"]'],
        '["3","33"]': "worker died (signal 9, as when memory runs out)",
    }
    assert "MemoryError" in reasons['["0","8"]']
    assert (found.metrics["segments_ok"], found.metrics["segments_failed"]) == (37, 3)
    assert found.failures[reasons['["3","33"]']] == 1
    ok = [r for r in rows if r["status"] == "ok"]
    assert all(r["core_seconds"] >= 0 and r["state_bytes"] > 0 for r in ok)
    assert {r["data_bytes"] for r in rows if r["level"] == 0} == {60 * 2 * 8}
    assert found.metrics["core_seconds"] == pytest.approx(sum(r["core_seconds"] or 0 for r in rows))
    assert found.metrics["state_bytes"] == sum(r["state_bytes"] or 0 for r in rows)


class NoGroups(Ridge):
    """Fails on more rows than a segment has, and on the targets around 1000."""

    def fit(self, features, target):
        if len(target) > 60 or round(float(target.mean()), -3) == 1000:
            raise ArithmeticError("too many")
        return super().fit(features, target)


@pytest.mark.parametrize(("baseline", "expected"), [("mean", None), ("seasonal_naive:x", 3.5)])
def test_the_chain_ends_with_the_baseline(tmp_path, baseline, expected) -> None:
    lake = lake_of(tmp_path, {7: 1000.0})
    found = train(declare(NoGroups, baseline=baseline), lake, workers=1)
    rows = {r["segment"]: r for r in lake.table("shoal.fleet_sales").scan().collect().to_dicts()}
    lost = rows['["0","7"]']
    assert (lost["status"], lost["model_used"], lost["uses"]) == ("failed", "baseline", "baseline")
    assert rows["[]"]["reason"] == "ArithmeticError: too many"
    assert rows['["0","6"]']["uses"] == "own"
    what = "the mean of all targets" if baseline == "mean" else "the feature x"
    assert rows["baseline"]["reason"] == what
    given = pa.table({"region": [0, 0, 9], "store": [7, 6, 99], "x": [3.5] * 3})
    explained = Fleet.open(found.artifact, modules=[__name__]).predict(given, explain=True)
    assert explained["model_used"].to_pylist() == ["baseline", '["0","6"]', "baseline"]
    mean = lake.table("gold.sales").scan().collect()["y"].mean()
    assert explained["prediction"][0].as_py() == pytest.approx(expected or mean)


class NoClasses(LogisticRegression):
    def fit(self, features, target):
        if len(target) > 60 or features[0, 0] > 90:
            raise ArithmeticError("too many")
        return super().fit(features, target)


def test_the_baseline_of_classes_is_their_frequency(tmp_path) -> None:
    random = np.random.default_rng(0)
    store = np.repeat(np.arange(3), 60)
    x = random.normal(size=180) + 100 * (store == 2)
    label = np.where(random.random(180) < 0.7, "often", "rare")
    lake = Lake(tmp_path)
    lake.table("gold.sales").append(pa.table({"region": store, "store": store, "x": x, "y": label}))
    found = train(declare(NoClasses, metric="accuracy"), lake, workers=1)
    given = pa.table({"region": [2, 5], "store": [2, 5], "x": [100.0, 0.0]})
    explained = Fleet.open(found.artifact, modules=[__name__]).predict(given, explain=True)
    assert explained["model_used"].to_pylist() == ["baseline", "baseline"]
    assert explained["prediction"].to_pylist() == ["often", "often"]


def test_a_function_that_workers_cannot_load_is_an_error(tmp_path) -> None:
    import threading

    lock = threading.Lock()

    def locked():
        return Ridge(alpha=1.0 if lock else 2.0)

    with pytest.raises(TrainingError, match="cannot be sent to worker processes"):
        train(declare(locked), lake_of(tmp_path, {}, stores=2), workers=1)


SLOW = """
import sys, time
from pathlib import Path
from sklearn.linear_model import Ridge
from shoal.lake import Lake
from shoal.models import collecting_models, model
from shoal.training import train

class Slow(Ridge):
    def fit(self, features, target):
        time.sleep(0.05)
        return super().fit(features, target)

with collecting_models() as found:
    model(table="gold.sales", target="y", by=["region", "store"], name="sales")(Slow)

def progress(done, total):
    print(done, flush=True)

train(found[0], Lake(sys.argv[1]), workers=2, progress=progress)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_training_leaves_nothing_behind(tmp_path, how) -> None:
    lake = lake_of(tmp_path / "lake", {}, stores=200)
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    training = subprocess.Popen(
        [sys.executable, str(script), str(lake.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    assert training.stdout is not None
    assert training.stdout.readline().strip().isdigit(), training.communicate()[1]
    children = descendants(training.pid)
    assert len(children) == 3  # the one that forks, and two workers
    training.send_signal(how)
    training.communicate(timeout=30)
    assert training.returncode != 0
    assert gone(children)
    assert not lake.table("shoal.fleet_sales").exists()
    if how == signal.SIGINT:
        assert list(scratch.iterdir()) == []


def test_a_commit_that_fails_removes_the_artifact(tmp_path) -> None:
    lake = lake_of(tmp_path, {}, stores=4)
    clash = pa.table({"segment": pa.array([1], pa.int64())})
    lake.table("shoal.fleet_sales").append(clash)
    with pytest.raises(Exception, match="Cannot cast"):
        train(declare(Ridge), lake, workers=1)
    folder = Path(lake.table("shoal.fleet_sales").path) / "_fleets"
    assert not list(folder.glob("*"))

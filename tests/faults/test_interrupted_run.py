"""A run that is interrupted or killed in its middle is completed by the next one."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

SOURCE = """
from pyspark import pipelines as dp

@dp.table(name="bronze.events")
def bronze():
    return spark.readStream.schema("id INT").json("landing")

@dp.table(name="silver.events")
def silver():
    return spark.readStream.table("bronze.events").selectExpr("id", "sha2(string(id), 256) AS name")

@dp.materialized_view(name="gold.total")
def gold():
    return spark.sql("SELECT count(*) AS n, sum(id) AS total FROM silver.events")
"""
ROWS = 50_000


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "p"
    (root / "transformations").mkdir(parents=True)
    (root / "landing").mkdir()
    (root / "spark-pipeline.yml").write_text(
        "name: p\nstorage: lake\nlibraries: [{glob: {include: transformations/**}}]\n"
    )
    (root / "transformations/tables.py").write_text(SOURCE)
    return root


def land(root: Path, turn: int) -> None:
    ids = range(turn * ROWS, (turn + 1) * ROWS)
    path = root / f"landing/{turn:05}.jsonl"
    path.write_text("".join(json.dumps({"id": i}) + "\n" for i in ids))


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "shoal.cli", "run", "--tables-only"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_there(path: Path, process: subprocess.Popen[str]) -> None:
    """Waits for a file that the run makes in its middle."""
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, told = process.communicate(timeout=60)
    return process.returncode, told


def complete(root: Path, turns: int) -> None:
    """A run to the end, after which every row is there once."""
    status, told = ended(start(root))
    assert status == 0, told
    rows = turns * ROWS
    for name in ("bronze", "silver"):
        ids = pl.read_delta(str(root / f"lake/{name}/events"))["id"]
        assert (ids.len(), ids.n_unique(), ids.max()) == (rows, rows, rows - 1)
    assert pl.read_delta(str(root / "lake/gold/total")).row(0) == (rows, rows * (rows - 1) // 2)


def test_an_interrupt_leaves_whole_versions_and_the_next_run_completes(project):
    land(project, 0)
    process = start(project)
    until_there(project / "lake/bronze/events", process)
    process.send_signal(signal.SIGTERM)
    status, told = ended(process)
    assert status == 130, told
    assert "run again" in told
    assert not (project / "lake/gold/total").exists()
    assert "interrupted" in pl.read_delta(str(project / "lake/shoal/events"))["details"][-1]
    complete(project, 1)


def test_killed_runs_lose_and_double_nothing(project):
    moments = ("bronze/events/_shoal", "silver/events", "gold/total")
    for turn, moment in enumerate(moments):
        land(project, turn)
        process = start(project)
        until_there(project / "lake" / moment, process)
        process.kill()
        assert ended(process)[0] == -signal.SIGKILL
    complete(project, len(moments))

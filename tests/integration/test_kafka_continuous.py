"""``shoal run --continuous`` as a real process over Kafka and files: told to stop, and killed."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kafka import missing, running_kafka
from projects import SmallProject

pytestmark = pytest.mark.slow

SOURCES = """
@dp.table(name="bronze.messages")
def messages():
    rows = (spark.readStream.format("kafka").option("subscribe", "{topic}")
        .option("kafka.bootstrap.servers", "{servers}")
        .option("startingOffsets", "earliest").load())
    return rows.selectExpr("CAST(CAST(value AS STRING) AS BIGINT) AS id", "partition", "offset")

@dp.table(name="bronze.files")
def files():
    return spark.readStream.schema("id BIGINT").json("landing")

@dp.table(name="silver.all")
def everything():
    one = spark.readStream.table("bronze.messages").select("id")
    return one.unionAll(spark.readStream.table("bronze.files"))

dp.create_sink("exports", "parquet", {{"path": "exports"}})

@dp.append_flow(target="exports")
def export():
    return spark.readStream.table("silver.all")
"""


def make(project: SmallProject, kafka, topic: str) -> None:
    project.python(SOURCES.format(servers=kafka.servers, topic=topic))


def start(project: SmallProject, *options: str) -> subprocess.Popen[str]:
    with (project.root / "errors.log").open("a") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "shoal.cli", "run", "--project", str(project.root),
             "--tables-only", "--continuous", *options],
            stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        )  # fmt: skip


def wait_for(met: Callable[[], bool], run: subprocess.Popen[str], seconds: float = 90.0) -> None:
    """Polls until something is so, while the run goes on."""
    until = time.monotonic() + seconds
    while not met():
        assert run.poll() is None, f"the run ended with {run.returncode}"
        assert time.monotonic() < until, f"not met after {seconds} s"
        time.sleep(0.02)


def count(project: SmallProject, table: str) -> int:
    found = project.lake.table(table)
    return found.size()[0] if found.exists() else 0


def exported(folder: Path) -> list[int]:
    import polars as pl

    files = list(folder.glob("*.parquet"))
    return sorted(row for file in files for row in pl.read_parquet(file)["id"])


def test_a_continuous_run_follows_its_sources_until_told_to_stop(project, kafka, topic) -> None:
    kafka.topic(topic, 2)
    kafka.send(topic, ["0"])
    make(project, kafka, topic)
    run = start(project, "--trigger", "100ms", "--json")
    assert run.stdout is not None
    wait_for(lambda: count(project, "silver.all") == 1, run)
    for number in range(1, 4):
        kafka.send(topic, [str(i) for i in range(number * 10, number * 10 + 10)])
        project.land(f"{number}.json", [{"id": 1000 + number}])
        wait_for(lambda n=number: count(project, "silver.all") == 1 + 11 * n, run)
    wait_for(lambda: len(exported(project.root / "exports")) == 34, run)
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=60)
    told = (project.root / "errors.log").read_text()
    assert run.returncode == 130, told
    assert "Interrupted. Every table is at a whole version" in told
    assert "Traceback" not in told
    reports = [json.loads(line) for line in out.splitlines()]
    # One for each arrival; the signal may come before the last round has said its own.
    assert len(reports) >= 3
    assert not any(report["failed"] for report in reports)
    expected = sorted([0, *range(10, 40), 1001, 1002, 1003])
    assert project.rows("silver.all", "id") == sorted(expected, key=repr)
    assert exported(project.root / "exports") == expected


def test_each_round_is_one_line(project, kafka, topic) -> None:
    kafka.topic(topic)
    make(project, kafka, topic)
    run = start(project, "--trigger", "100ms")
    assert run.stdout is not None
    first = run.stdout.readline()
    assert "bronze.messages +0 (version 0)" in first
    kafka.send(topic, ["1", "2"])
    assert "bronze.messages +2 (version 1), silver.all +2" in run.stdout.readline()
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode == 130


def test_a_broker_that_goes_away_and_comes_back_costs_nothing(project, tmp_path) -> None:
    if why := missing():
        pytest.skip(why)
    with running_kafka(tmp_path / "broker") as kafka:
        kafka.topic("events", 2)
        kafka.send("events", ["0"])
        make(project, kafka, "events")
        run = start(project, "--trigger", "100ms", "--json")
        assert run.stdout is not None
        wait_for(lambda: count(project, "silver.all") == 1, run)
        kafka.stop()
        project.land("1.json", [{"id": 100}])
        wait_for(lambda: count(project, "bronze.files") == 1, run)
        reports = map(json.loads, run.stdout)
        failed = next(report for report in reports if report["failed"])
        states = {table["table"]: table for table in failed["tables"]}
        assert states["bronze.messages"]["status"] == "failed"
        assert states["bronze.messages"]["retryable"]
        assert "nothing was lost" in states["bronze.messages"]["error"]
        kafka.start()
        kafka.send("events", ["1", "2"])
        wait_for(lambda: len(exported(project.root / "exports")) == 4, run)
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert run.returncode == 130
    assert project.rows("silver.all", "id") == [0, 1, 100, 2]


def test_a_run_that_is_killed_again_and_again_loses_and_doubles_nothing(
    project, kafka, topic
) -> None:
    kills, each, seed = 12, 4200, 20261123
    messages = kills * each
    kafka.topic(topic, 4)
    make(project, kafka, topic)
    chance, clock = random.Random(seed), threading.Event()

    def produce(number: int) -> None:
        for first in range(number * each, (number + 1) * each, 100):
            kafka.send(topic, map(str, range(first, first + 100)))

    killed_at_work = 0
    for number in range(kills):
        run = start(project, "--trigger", "0s")
        before = project.versions()
        producer = threading.Thread(target=produce, args=(number,))
        if number:
            project.land(f"{number}.json", [{"id": messages + number}])
        wait_for(lambda before=before: project.versions() != before, run)
        producer.start()
        clock.wait(chance.uniform(0, 0.5))
        run.kill()
        producer.join(60)
        run.communicate(timeout=60)
        assert run.returncode == -signal.SIGKILL
        killed_at_work += count(project, "silver.all") < (number + 1) * each + number
    project.ok()
    project.ok()
    expected = [*range(messages), *range(messages + 1, messages + kills)]
    assert project.lake.table("bronze.messages").scan().collect()["id"].sort().to_list() == list(
        range(messages)
    )
    assert len(set(project.rows("bronze.messages", "partition", "offset"))) == messages
    assert project.lake.table("silver.all").scan().collect()["id"].sort().to_list() == expected
    assert exported(project.root / "exports") == expected
    assert killed_at_work > kills // 2

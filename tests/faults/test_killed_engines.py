"""Exactly once on engines beside the run: the run, or the engine, is killed while rows are written.

Shoal's own Delta transaction holds rows and progress together on every engine. The write is held
in its middle by the project itself: a function in the engine's workers waits for a file.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from projects import SmallProject
from shoal.engines.servers import LocalServer, sail_cluster, spark_server
from shoal.errors import EngineError

TABLES = """
def held(batches):
    import pathlib
    import time

    root = pathlib.Path({root!r})
    for batch in batches:
        (root / "writing").touch()
        while not (root / "go").exists():
            time.sleep(0.02)
        yield batch

@dp.table(name="bronze.events")
def bronze():
    rows = spark.readStream.schema("id BIGINT, kind STRING").json("landing/events")
    return rows.mapInArrow(held, "id BIGINT, kind STRING")

@dp.materialized_view(name="gold.kinds")
def kinds():
    return spark.read.table("bronze.events").groupBy("kind").agg(F.count("*").alias("n"))
"""
LIGHT = {"spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1", "spark.driver.memory": "1g"}


def started(name: str) -> LocalServer:
    try:
        return sail_cluster(2) if name == "sail-cluster" else spark_server(settings=LIGHT)
    except EngineError as error:
        pytest.skip(str(error))


def below(pid: int) -> list[int]:
    """A process's children, and theirs."""
    try:
        found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*found, *(inner for child in found for inner in below(child))]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def until(what, why: str, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.02)


def use(project: SmallProject, url: str) -> None:
    (project.root / "shoal.toml").write_text(f'[profiles.default]\nengine = "{url}"\n')


def run(project: SmallProject) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shoal.cli", "run", "--tables-only"]
    return subprocess.Popen(
        command, cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def held_run(project: SmallProject) -> subprocess.Popen[str]:
    """A run that stands in the middle of its write."""
    for name in ("writing", "go"):
        (project.root / name).unlink(missing_ok=True)
    process = run(project)
    until(
        lambda: (project.root / "writing").exists() or process.poll() is not None, "nothing written"
    )
    assert process.poll() is None, process.communicate()[0]
    return process


def complete(project: SmallProject, ids: range) -> None:
    (project.root / "go").touch()
    process = run(project)
    told = process.communicate(timeout=280)[0]
    assert process.returncode == 0, told
    assert project.rows("bronze.events", "id") == sorted(ids, key=repr)
    assert dict(project.rows("gold.kinds", "kind", "n")) == {
        kind: len([i for i in ids if i % 3 == place]) for place, kind in enumerate("abc")
    }


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["sail-cluster", "spark"])
def test_a_killed_run_and_a_killed_engine_lose_and_double_nothing(tmp_path, name) -> None:
    project = SmallProject(tmp_path / "p")
    project.python(TABLES.format(root=str(project.root)))
    project.land("events/1.json", [{"id": i, "kind": "abc"[i % 3]} for i in range(30)])
    server = started(name)
    try:
        use(project, server.url)
        process = held_run(project)
        process.kill()
        process.communicate()
        assert not project.lake.table("bronze.events").exists()
        complete(project, range(30))

        project.land("events/2.json", [{"id": i, "kind": "abc"[i % 3]} for i in range(30, 60)])
        before = project.versions()
        process = held_run(project)
        for pid in below(server.pid):
            os.kill(pid, signal.SIGKILL)
        told = process.communicate(timeout=200)[0]  # pyspark's client alone would wait 10 minutes
        assert process.returncode in (1, 75), told
        assert project.versions() == before
    finally:
        (project.root / "go").touch()  # no worker waits on
        server.stop()
    server = started(name)
    try:
        use(project, server.url)
        complete(project, range(60))
        after = project.versions()
        complete(project, range(60))
        assert project.versions() == after
    finally:
        server.stop()


def test_a_server_ends_with_the_process_that_started_it() -> None:
    code = (
        "import sys; sys.modules['__main__'].__file__ = 'x'\n"
        "from shoal.engines.servers import sail_cluster\n"
        "print(sail_cluster(2).pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        leash = int(owner.stdout.readline())
        servers = below(leash)
        assert servers
        owner.kill()
        owner.wait()
        until(lambda: all(map(gone, [leash, *servers])), "the server outlives its owner")

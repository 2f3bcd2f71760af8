"""Whole projects on S3 (moto's server) and Azure (Azurite): only the profile's storage differs."""

from __future__ import annotations

import json
import subprocess
import sys

import polars as pl
import pytest

from gcs import missing as no_gcs
from gcs import running_gcs
from projects import SmallProject
from shoal.store import storage_url
from stores import missing, proxied, running_azure, running_s3

EVENTS = """
@dp.table(name="bronze.events")
def events():
    options = {{"cloudFiles.format": "json", "cloudFiles.schemaLocation": "{landing}/_schema"}}
    return spark.readStream.format("cloudFiles").options(**options).load("{landing}")

@dp.table(name="silver.events", partition_cols=["kind"])
@shoal.expect_or_drop("even", "id % 10 <> 0")
def silver():
    return spark.readStream.table("bronze.events").select(F.expr("CAST(id AS BIGINT) AS id"), "kind")

@dp.materialized_view(name="gold.kinds")
def gold():
    rows = spark.read.table("silver.events").groupBy("kind")
    return rows.agg(F.count("*").alias("n"), F.sum("id").alias("total"))

@dp.materialized_view(name="gold.doubled")
@shoal.polars("silver.events")
def doubled(events):
    import polars as pl
    return events.select(pl.col("id") * 2)
"""


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with running_s3(tmp_path_factory.mktemp("s3")) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def gs(tmp_path_factory):
    pytest.importorskip("google.cloud.storage")
    if why := no_gcs():
        pytest.skip(why)
    with running_gcs(tmp_path_factory.mktemp("gs")) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def azure(tmp_path_factory):
    if why := missing():
        pytest.skip(why)
    with running_azure(tmp_path_factory.mktemp("azure")) as cloud:
        yield cloud


@pytest.fixture(
    params=["s3", *(pytest.param(name, marks=pytest.mark.heavy) for name in ("azure", "gs"))]
)
def cloud(request):
    found = request.getfixturevalue(request.param)
    with found.set():
        yield found


def rows(*ids: int) -> bytes:
    return "".join(json.dumps({"id": i, "kind": "aéb"[i % 3]}) + "\n" for i in ids).encode()


def test_a_project_lives_in_a_cloud(cloud, tmp_path, engine) -> None:
    """Landing files, tables, progress and state; a second run takes what is new, a third nothing."""
    bucket = cloud.bucket()
    project = SmallProject(tmp_path / "p", engine)
    project.move_lake(f"{bucket}/lake")
    landing = f"{bucket}/landing"
    project.python(EVENTS.format(landing=landing))
    cloud.put(f"{landing}/2024-01-01/ä b%201.json", rows(*range(20)))
    first = project.ok()
    assert first["silver.events"].dropped == 2
    cloud.put(f"{landing}/2024-01-02/2.json", rows(*range(20, 30)))
    second = project.ok()
    assert (second["bronze.events"].refresh, second["bronze.events"].rows) == ("incremental", 10)
    kept = [i for i in range(30) if i % 10]
    assert project.rows("silver.events", "id") == sorted(kept, key=repr)
    wanted = [("aéb"[k], len(found), sum(found)) for k in range(3)
              if (found := [i for i in kept if i % 3 == k])]  # fmt: skip
    assert project.rows("gold.kinds", "kind", "n", "total") == sorted(wanted, key=repr)
    assert project.rows("gold.doubled", "id") == sorted((2 * i for i in kept), key=repr)
    # another reader, straight from the store
    frame = pl.scan_delta(f"{bucket}/lake/silver/events", credential_provider=None).collect()
    assert sorted(frame["id"]) == kept
    before = cloud.names(bucket)
    assert {r.status for r in project.ok().values()} == {"unchanged"}
    assert cloud.names(bucket) == before
    assert not any("scratch" in name or ".shoal.lock" in name for name in before)
    assert not (project.root / "lake").exists()


def test_a_run_without_work_lists_little(s3, tmp_path, engine) -> None:
    """Twenty tables: requests by kind of a run that finds nothing new."""
    bucket = s3.bucket()
    with proxied(s3) as (behind, proxy), behind.set():
        project = SmallProject(tmp_path / "p", engine)
        project.move_lake(f"{bucket}/lake")
        project.land("a.json", [{"id": 1}])
        text = '@dp.table(name="a.t0")\ndef t0():\n'
        text += '    return spark.readStream.schema("id BIGINT").json("landing")\n'
        for n in range(1, 20):
            text += f'@dp.table(name="a.t{n}")\ndef t{n}():\n'
            text += f'    return spark.readStream.table("a.t{n // 2}")\n'
        project.python(text)
        project.ok()
        proxy.seen()
        assert {r.status for r in project.ok().values()} == {"unchanged"}
        seen = proxy.seen()
    assert seen["PUT"] + seen["DELETE"] + seen["POST"] <= 4  # the lease, taken and given back
    assert seen["LIST"] <= 20 * 3, seen


def test_a_bucket_that_does_not_exist_is_told_before_anything_is_done(cloud, tmp_path) -> None:
    project = SmallProject(tmp_path / "p")
    gone = cloud.bucket().rsplit("/", 1)[0] + "/never-was"
    project.move_lake(storage_url(gone + "/"))
    project.python(EVENTS.format(landing="landing"))
    command = [sys.executable, "-m", "shoal.cli", "run", "--project", str(project.root)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "There is no" in said
    assert "Create it:" in said
    assert "Traceback" not in said


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["s3", "azure", "gs"])
def test_the_whole_demo_runs_in_a_cloud(kind, request, tmp_path) -> None:
    """Files, tables, fleets, MLflow's artifacts, scoring and REST; read by another reader, too."""
    cloud = request.getfixturevalue(kind)
    with cloud.set():
        bucket = cloud.bucket()
        command = [
            sys.executable,
            "-m",
            "shoal.cli",
            "demo",
            "--json",
            "--storage",
            f"{bucket}/lake/",
        ]
        folder = tmp_path / "demo"
        command += ["--folder", str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        said = json.loads(done.stdout)
        assert said["rest"]["agree"]
        names = cloud.names(bucket)
        tables = {tuple(n.split("/")[1:3]) for n in names if "/_delta_log/" in n}
        assert ("gold", "delay_predictions") in tables
        for schema, table in tables:
            count = (
                pl.scan_delta(f"{bucket}/lake/{schema}/{table}", credential_provider=None)
                .select(pl.len())
                .collect()
            )
            assert count.item() > 0
        assert any(name.startswith("lake/_artifacts/") for name in names)
        assert not (folder / "lake").exists()


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_the_energy_example_lives_in_a_cloud(kind, request, tmp_path) -> None:
    """Landed, refreshed, trained, scored, watched, and one version made again, bit for bit."""
    cloud = request.getfixturevalue(kind)

    def shoal(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "shoal.cli", *words],
            cwd=root if root.exists() else tmp_path,
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    with cloud.set():
        bucket, root = cloud.bucket(), tmp_path / "energy"
        shoal("init", "energy", "--template", "energy")
        text = (root / "shoal.toml").read_text()
        profile = f'[profiles.default]\nstorage = "{bucket}/lake"\n\n'
        (root / "shoal.toml").write_text(profile + text)
        land = [sys.executable, "land.py", "--meters", "12"]
        subprocess.run([*land, "--days", "21", "--until", "2014-09-14"], cwd=root, check=True)
        shoal("run")
        subprocess.run([*land, "--days", "7", "--until", "2014-09-21"], cwd=root, check=True)
        shoal("run", "--tables-only")
        shoal("score")
        (window,) = json.loads(shoal("monitor", "--json"))["windows"]
        assert (window["status"], window["window"]) == ("watched", 1)
        assert "bit-identical" in shoal("reproduce", "load@champion")
        frame = pl.scan_delta(f"{bucket}/lake/gold/load_predictions", credential_provider=None)
        assert frame.collect()["prediction"].null_count() == 0
        assert any("/_artifacts/" in name for name in cloud.names(bucket))
        assert not (root / "lake/gold").exists()

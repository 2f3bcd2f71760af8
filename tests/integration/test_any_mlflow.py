"""The lifecycle on MLflow's own server over PostgreSQL: reached, busy, stopped, and looked at."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflows import BusyProxy, MlflowServer, missing_postgres, running_postgres
from shoal.cli import cli
from shoal.workspace.pending import record_pending, waiting
from shoal.workspace.reproduce import reproduce
from shops import Shops

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),
]

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[MlflowServer]:
    if why := missing_postgres():
        pytest.skip(why)
    with running_postgres() as store:
        server = MlflowServer(store, tmp_path_factory.mktemp("mlflow"))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def project(folder: Path, name: str, url: str) -> Shops:
    shops = Shops(folder)
    (folder / "spark-pipeline.yml").write_text(f"name: {name}\nstorage: lake\nlibraries: []\n")
    (folder / "shoal.toml").write_text(f'[profiles.default]\ntracking = "{url}"\n')
    models = folder / "models/sales.py"
    models.write_text(models.read_text().replace("def sales", f"def {name}"))
    return shops


def declare(shops: Shops, name: str, alpha: float) -> None:
    shops.declare(alpha)
    models = shops.root / "models/sales.py"
    models.write_text(models.read_text().replace("def sales", f"def {name}"))


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory) -> Shops:
    shops = project(tmp_path_factory.mktemp("any") / "project", "served", server.url)
    for alpha, alias in ((1.0, "champion"), (0.1, "challenger")):
        declare(shops, "served", alpha)
        with shops.open() as space:
            (report,) = space.train(alias=alias)
        assert report.status == "trained", report.error
    return shops


def test_the_whole_lifecycle_on_a_server_over_postgresql(trained, server, tmp_path, capfd) -> None:
    with trained.open() as space:
        rows = space.lake.table("gold.sales").scan().collect()
        expected = space.tracker.fleet("served/2").predict(rows.to_arrow())["prediction"]
        assert space.promote("served").move.version == 2
        composite = space.promote("served", 1, segments=["r0,s2"], why="one back")
        assert composite.move.version == 3
        assert space.rollback("served").move.version == 2
        assert [m.kind for m in space.audit.moves("served", "champion")] == [
            "train",
            "promote",
            "promote",
            "rollback",
        ]
        assert "View run" not in capfd.readouterr().out  # nothing stands before --json
        proof = reproduce(space, "served/2")
        assert set(proof.verdicts) == {"identical"}
        assert proof.verdicts["identical"] >= 12
        assert "identical" in space.tracker.run(proof.run_id).tags["shoal.reproduced"]
    rows.write_parquet(tmp_path / "rows.parquet")
    script = f"""
        import mlflow, pandas as pd
        mlflow.set_tracking_uri("{server.url}")
        rows = pd.read_parquet("{tmp_path}/rows.parquet")
        found = mlflow.pyfunc.load_model("models:/served@champion").predict(rows)
        pd.DataFrame({{"y": found}}).to_parquet("{tmp_path}/found.parquet")
    """
    file = tmp_path / "stock.py"  # pyspark ends a process whose main module is no file
    file.write_text(textwrap.dedent(script))
    subprocess.run([sys.executable, str(file)], check=True, timeout=300)
    import polars as pl

    found = pl.read_parquet(tmp_path / "found.parquet")["y"].to_list()
    assert found == pytest.approx(expected.to_pylist(), rel=1e-12)


@pytest.mark.parametrize("answers", [[503, 429], [0, 502]])
def test_a_busy_server_is_asked_again(server, tmp_path, answers) -> None:
    with BusyProxy(server.url).running() as proxy:
        name = f"busy{answers[0]}"
        shops = project(tmp_path / "project", name, proxy.url)
        with shops.open() as space:
            space.tracker.models()  # connected
            proxy.answers += answers
            (report,) = space.train()
        assert (report.status, report.version) == ("trained", 1), report.error
        assert proxy.answers == []


def test_a_server_of_another_version_is_told_by_its_answers(server, tmp_path) -> None:
    """MLflow's client asks for no version: what counts is whether the calls are answered."""
    with BusyProxy(server.url).running() as proxy:
        proxy.version = "2.1.0"
        shops = project(tmp_path / "project", "elder", proxy.url)
        with shops.open() as space:
            space.tracker.models()
            proxy.answers += [404] * 50  # an old server knows no such paths
            (report,) = space.train()
            assert report.status == "failed"
            assert "Cannot" in report.error


def test_a_stopped_server_costs_no_training(server, tmp_path) -> None:
    shops = project(tmp_path / "project", "patient", server.url)
    with shops.open() as space:
        assert space.train()[0].status == "trained"
    declare(shops, "patient", 0.5)
    server.stop()
    try:
        asked = ["train", "--project", str(shops.root)]
        told = CliRunner().invoke(cli, asked)
        assert told.exit_code == 75, told.output
        assert "pending" in told.output
        told = CliRunner().invoke(cli, ["track", "--pending", "--project", str(shops.root)])
        assert told.exit_code == 75, told.output
    finally:
        server.start()
    with shops.open() as space:
        (report,) = record_pending(space)
        assert (report.status, report.version) == ("trained", 2)
        assert waiting(space) == []
        assert space.tracker.resolve("patient").version == 2


def test_mlflows_own_page_opens_the_run_and_the_model(trained, server, tmp_path) -> None:
    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not installed: apt-get install chromium")
    from playwright.sync_api import expect, sync_playwright

    with trained.open() as space:
        version = space.tracker.resolve("served/2")
        experiment = space.tracker._experiment_id()
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        failed: list[str] = []
        page.on(
            "response", lambda r: failed.append(f"{r.status} {r.url}") if r.status >= 500 else None
        )
        page.set_default_timeout(60_000)
        page.goto(f"{server.url}/#/experiments/{experiment}/runs/{version.run_id}")
        expect(page.get_by_text("served-2").first).to_be_visible(timeout=60_000)
        expect(page.get_by_text("mae").first).to_be_visible()
        expect(page.get_by_text("gold.sales").first).to_be_visible()
        page.screenshot(path=tmp_path / "run.png")
        page.goto(f"{server.url}/#/models/served/versions/2")
        expect(page.get_by_text("gold.sales version 0").first).to_be_visible(timeout=60_000)
        page.screenshot(path=tmp_path / "model.png")
        browser.close()
    assert failed == []
    assert all((tmp_path / f"{name}.png").stat().st_size > 20_000 for name in ("run", "model"))

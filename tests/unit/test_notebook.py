"""The notebook magic in a real IPython shell, and how values show themselves."""

import json
import re

import pytest

from fleets import trained_fleet
from projects import SmallProject
from shoal.engines import connect
from shoal.errors import PipelineError, ProjectError
from shoal.html import card, grid
from shoal.lake import Lake
from shoal.models import Fleet
from shoal.workspace import Evaluation, ModelPlan, Plan


@pytest.fixture(scope="module")
def engine():
    with connect() as engine:
        yield engine


@pytest.fixture(scope="module")
def project(tmp_path_factory, engine):
    project = SmallProject(tmp_path_factory.mktemp("notebook") / "project", engine)
    project.land("one.jsonl", [{"id": 1, "shop": "<b>a</b>"}, {"id": 2, "shop": "b"}])
    project.python(
        """
        @dp.table(name="bronze.sales", comment="as landed")
        def sales():
            return spark.readStream.format("json").schema("id INT, shop STRING").load("landing")
        """
    )
    return project


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    settings = Config()
    settings.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=settings)
    yield shell
    shell.run_line_magic("unload_ext", "shoal.notebook")
    InteractiveShell.clear_instance()


def test_a_run_a_plan_and_a_table_show_themselves(project):
    with project.open() as space:
        plan = space.plan(space.options())
        decisions, models = plan  # a pair, as it always was
        assert not models
        assert re.search(r"bronze\.sales</td><td>full</td><td>the table is new", plan._repr_html_())
        assert [str(d.name) for d in decisions] == ["bronze.sales"]
        report = space.run(space.options(), models=False)
        shown = report._repr_html_()
        assert "<td>bronze.sales</td><td>refreshed</td>" in shown
        table = space.lake.table("bronze.sales")._repr_html_()
    assert "rows <b>2</b>" in table
    assert "<td>shop</td><td>string</td>" in table
    assert "does not exist" in project.lake.table("bronze.nothing")._repr_html_()


def test_the_magic_answers_keeps_and_refuses(project, shell):
    project.ok()
    shell.run_line_magic("load_ext", "shoal.notebook")
    query = "SELECT id, shop FROM bronze.sales ORDER BY id"
    where = f"--project {project.root}"
    frame = shell.run_cell_magic("shoal", f"{where} --limit 1", query)
    assert frame["id"].tolist() == [1]
    kept = shell.run_cell_magic("shoal", f"{where} --into sales", query)
    assert kept is None
    assert shell.user_ns["sales"]["shop"].tolist() == ["<b>a</b>", "b"]
    with pytest.raises(PipelineError, match="no query"):
        shell.run_cell_magic("shoal", where, "DROP TABLE bronze.sales")
    with pytest.raises(ProjectError, match="does not know '--limits'") as told:
        shell.run_cell_magic("shoal", "--limits 3", query)
    assert told.value.hint == "Did you mean --limit?"
    with pytest.raises(ProjectError, match="expected a number"):
        shell.run_cell_magic("shoal", f"{where} --limit x", query)
    with pytest.raises(ProjectError, match="variable"):
        shell.run_cell_magic("shoal", f"{where} --into 3x", query)


def test_a_fleet_shows_its_members(tmp_path):
    trained = trained_fleet(tmp_path)
    shown = Fleet.open(trained.artifact)._repr_html_()
    assert "segments <b>4</b>" in shown
    assert "fallback <b>1</b>" in shown
    assert "3 training rows, fewer than 30" in shown
    assert json.dumps(["UA", "IAH"], separators=(",", ":")).replace('"', "&quot;") in shown
    assert "gold.flights" in Lake(tmp_path / "lake").table("gold.flights")._repr_html_()


def test_texts_are_escaped_and_long_tables_cut():
    assert "<script>" not in card("<script>", {"a": "<script>"}, grid(["<i>"], [["<script>"]]))
    assert "and 1,950 more" in grid(["n"], ([i] for i in range(2_000)))
    shown = Evaluation(
        id="e", model="m", challenger=2, champion=1, table="t", table_version=0, which="all",
        seen="neither", metric="mae", test="t", alpha=0.05, rows=10,
        values={"champion": 2.0, "challenger": 1.5}, verdict="won",
    )._repr_html_()  # fmt: skip
    assert "mae of version 1 <b>2</b>" in shown
    plan = Plan([], [ModelPlan(model="m", table="t", stale=True, reason="new")])
    assert "<td>m</td><td>train</td><td>new</td>" in plan._repr_html_()

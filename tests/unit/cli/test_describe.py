"""What columns hold, at a version and beside another."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from projects import SmallProject
from shoal.cli import cli


@pytest.fixture
def project(tmp_path) -> SmallProject:
    project = SmallProject(tmp_path / "project")
    random = np.random.default_rng(1)
    for shift in (0.0, 3.0):
        rows = pa.table(
            {
                "x": random.normal(shift, 1, 500),
                "kind": random.choice(["day", "night"], 500),
                "when": pa.array(np.arange(500), pa.timestamp("s", "UTC")),
                "list": [[1]] * 500,
            }
        )
        project.lake.table("silver.a").append(rows)
    return project


def run(project: SmallProject, *words: str):
    command = ["describe", "silver.a", "--project", str(project.root), *words]
    return CliRunner().invoke(cli, command, catch_exceptions=False)


def test_a_version_is_described(project):
    done = run(project, "--version", "0", "--json")
    told = json.loads(done.output)
    assert (told["table"], told["version"], told["against"]) == ("silver.a", 0, None)
    columns = {column["column"]: column for column in told["columns"]}
    assert list(columns) == ["x", "kind", "when"]
    rows = project.lake.table("silver.a").scan(0).collect()
    assert columns["x"]["mean"] == pytest.approx(rows["x"].mean())
    assert (columns["x"]["low"], columns["x"]["high"]) == (rows["x"].min(), rows["x"].max())
    assert sum(columns["kind"]["counts"]) == 500


def test_what_moved_is_named(project):
    done = run(project, "--against", "0")
    assert done.exit_code == 0, done.output
    assert "Moved far since version 0: x" in done.output.replace("\n", " ")


def test_a_page_needs_two_versions(project, tmp_path):
    done = run(project, "--html", str(tmp_path / "page.html"))
    assert done.exit_code == 2
    assert "--against" in done.output


def test_versions_and_tables_that_are_not_there_are_named(project):
    command = ["describe", "silver.b", "--project", str(project.root)]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code != 0
    assert "silver.a" in done.output
    done = CliRunner().invoke(cli, ["describe", "silver.a", "--against", "7", *command[2:]])
    assert "has no version 7" in done.output


@pytest.mark.heavy
def test_the_page_of_both_versions_needs_nothing_from_elsewhere(project, tmp_path):
    page = tmp_path / "page.html"
    done = run(project, "--against", "0", "--html", str(page))
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert "kind" in text
    assert "<script src=" not in text
    assert [path.name for path in tmp_path.iterdir() if "page" in path.name] == ["page.html"]

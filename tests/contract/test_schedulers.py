"""What `shoal schedule` writes, loaded and run by Dagster and Airflow themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from projects import SmallProject

pytestmark = pytest.mark.heavy
TOOLS = Path(__file__).parents[2] / ".tools"
SCRIPTS = Path(sys.executable).parent

DAGSTER = """
import importlib.util, json, sys

spec = importlib.util.spec_from_file_location("written", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
repository = module.defs.get_repository_def()
(schedule,) = repository.schedule_defs
job = repository.get_job(schedule.job_name)
done = job.execute_in_process()
order = [event.step_key for event in done.all_events if event.event_type_value == "STEP_SUCCESS"]
print(json.dumps({
    "when": schedule.cron_schedule, "zone": schedule.execution_timezone, "order": order,
    "good": done.success,
}))
"""

AIRFLOW = """
import json, sys
from airflow.dag_processing.dagbag import DagBag

bag = DagBag(dag_folder=sys.argv[1])
assert not bag.import_errors, bag.import_errors
(dag,) = bag.dags.values()
done = dag.test()
states = sorted((str(one.end_date), one.task_id, str(one.state)) for one in done.get_task_instances())
print(json.dumps({
    "when": dag.schedule, "dag": dag.dag_id, "state": str(done.state), "catchup": dag.catchup,
    "order": [name for _, name, _ in states], "states": [state for _, _, state in states],
}))
"""


@pytest.fixture
def project(tmp_path: Path) -> SmallProject:
    """A project of one table."""
    project = SmallProject(tmp_path / "small")
    project.sql("CREATE MATERIALIZED VIEW gold.one AS SELECT 1 AS one;\n")
    return project


def python_of(name: str) -> str:
    program = TOOLS / name / "bin" / "python"
    if not program.exists():
        pytest.skip(f"{name} is not there: make servers-heavy")
    return str(program)


def write(kind: str, project: SmallProject, out: Path) -> Path:
    """The one file that the command writes."""
    command = [sys.executable, "-m", "shoal.cli", "schedule", kind, "--at", "30 5 * * 1-5"]
    command += ["--step", "tables", "--step", "vacuum", "--out", str(out)]
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [*command, "--project", str(project.root)], check=True, env=os.environ | {"PATH": path}
    )
    (found,) = out.iterdir()
    return found


def run(program: str, script: str, argument: Path, home: Path, **more: str) -> dict[str, object]:
    """The last line of what another Python printed, as JSON."""
    names = ("PATH", "HOME", "LANG", "TMPDIR")
    env = {name: os.environ[name] for name in names if name in os.environ} | more
    done = subprocess.run(
        [program, "-c", script, str(argument)],
        cwd=home, env=env, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_dagster_runs_the_job(project: SmallProject, tmp_path: Path) -> None:
    program = python_of("dagster")
    written = write("dagster", project, tmp_path / "out")
    home = tmp_path / "home"
    home.mkdir()
    told = run(program, DAGSTER, written, home, DAGSTER_HOME=str(home))
    assert told == {
        "when": "30 5 * * 1-5",
        "zone": "UTC",
        "order": ["run_tables_only", "vacuum"],
        "good": True,
    }
    assert project.lake.table("gold.one").scan().collect().height == 1


def test_airflow_runs_the_dag(project: SmallProject, tmp_path: Path) -> None:
    program = python_of("airflow")
    written = write("airflow", project, tmp_path / "dags")
    home = tmp_path / "home"
    home.mkdir()
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(written.parent),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    }
    scripts = str(Path(program).parent)
    settings["PATH"] = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [f"{scripts}/airflow", "db", "migrate"],
        cwd=home, env=os.environ | settings, check=True, capture_output=True, timeout=240,
    )  # fmt: skip
    told = run(program, AIRFLOW, written.parent, home, **settings)
    assert told["dag"] == "shoal-small"
    assert told["when"] == "30 5 * * 1-5"
    assert told["catchup"] is False
    assert told["state"] == "success"
    assert told["order"] == ["run_tables_only", "vacuum"]
    assert project.lake.table("gold.one").scan().collect().height == 1

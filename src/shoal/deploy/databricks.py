"""A project as a Declarative Automation Bundle: what Databricks' own command line deploys.

Format: ``databricks.yml`` with the resources ``pipelines``, ``jobs`` and
``model_serving_endpoints``, as the typed models of the ``databricks-bundles`` package define them.
The tables become a pipeline of the same sources; models are trained and scored by Shoal in a job.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.deploy.wheel import write_wheel
from shoal.errors import ProjectError

if TYPE_CHECKING:
    from shoal.models import ModelDeclaration
    from shoal.project import Project

__all__ = ["export_databricks"]

# Databricks has a pyspark of its own; the embedded engine has no place there.
_THEIRS = {"googleapis-common-protos", "grpcio", "grpcio-status", "pandas", "pysail"}
_THEIRS |= {"pyspark-client"}
_JOB = '''"""One step of the job: see shoal.workspace.databricks."""

from shoal.workspace.databricks import main

main()
'''
_README = """# {name} on Databricks

Written by `shoal export databricks`. With Databricks' command line, in this folder:

    databricks bundle validate --target dev
    databricks bundle deploy --target dev
    databricks bundle run {key}

`databricks.yml` has the pipeline, a job that refreshes it, trains and scores, and a serving
endpoint for each model. Set its variables first: `catalog`, the folder of Shoal's lake on a volume
(`lake`), and after the first training the models' versions. What the sources read by path, such as
`landing/`, must be a path of a volume there.
"""


def export_databricks(
    project: Project, models: Sequence[ModelDeclaration], out: Path
) -> dict[str, Any]:
    """Writes the bundle into a new folder.

    Args:
        project: The project.
        models: Its models.
        out: The folder; it may hold an earlier export, which is replaced.

    Returns:
        What ``databricks.yml`` holds.

    Raises:
        ProjectError: The folder holds something else.
    """
    import yaml

    if out.exists() and any(out.iterdir()) and not (out / "databricks.yml").is_file():
        raise ProjectError(
            f"{out} is not empty, and holds no bundle.",
            hint="shoal export databricks --out another_folder",
        )
    for part in ("src", "jobs", "dist"):
        shutil.rmtree(out / part, ignore_errors=True)
    sources = [source.path for source in project.transformations()]
    declared = [source.path for source in project.models()]
    # The whole project, so that what the sources import or read beside them is there, too.
    skipped = shutil.ignore_patterns(
        ".*", "__pycache__", "landing", "mlruns", project.here.name, out.name
    )
    shutil.copytree(project.root, out / "src", ignore=skipped)
    for path in [*sources, *declared]:
        if not (out / "src" / path.relative_to(project.root)).is_file():
            raise ProjectError(
                f"{path} was not exported: it lies in a folder that holds data.",
                hint="Move the source out of it.",
            )
    key = re.sub(r"\W+", "_", project.name).strip("_").lower() or "pipeline"
    (out / "src/shoal.toml").write_text(_profile(key), encoding="utf-8")
    (out / "jobs").mkdir(parents=True)
    (out / "jobs/step.py").write_text(_JOB, encoding="utf-8")
    wheel = write_wheel(out / "dist", _requirements())
    bundle = _bundle(project, key, sources, models, wheel.name)
    text = yaml.safe_dump(bundle, sort_keys=False, allow_unicode=True, width=100)
    (out / "databricks.yml").write_text(text, encoding="utf-8")
    (out / "README.md").write_text(_README.format(name=project.name, key=key), encoding="utf-8")
    return bundle


def _profile(key: str) -> str:
    return (
        'default_profile = "databricks"\n\n[profiles.databricks]\n'
        f'storage = "/Volumes/main/{key}/lake"  # the job says its own\ntracking = "databricks"\n'
    )


def _requirements() -> list[str]:
    """What training and scoring need, but for what Databricks brings."""
    found = []
    for requirement in importlib.metadata.requires("shoal") or ():
        text, _, marker = (part.strip() for part in requirement.partition(";"))
        name = re.split(r"[^\w.-]", text, maxsplit=1)[0].lower()
        if name not in _THEIRS and (not marker or "'train'" in marker.replace('"', "'")):
            found.append(text)
    return found


def _bundle(
    project: Project,
    key: str,
    sources: Sequence[Path],
    models: Sequence[ModelDeclaration],
    wheel: str,
) -> dict[str, Any]:
    environment = {
        "environment_key": "shoal",
        "spec": {"environment_version": "4", "dependencies": [f"./dist/{wheel}"]},
    }
    tables: dict[str, Any] = {
        "task_key": "tables",
        "pipeline_task": {"pipeline_id": f"${{resources.pipelines.{key}.id}}"},
    }
    steps = [
        _step(f"{action}_{model.name}", after, action, model)
        for model in models
        for action, after in (("train", "tables"), ("score", f"train_{model.name}"))
    ]
    jobs = {
        key: {
            "name": project.name,
            "description": "Refresh the tables, train what is stale, score what is new",
            "tasks": [tables, *steps],
            "environments": [environment] if steps else [],
            "max_concurrent_runs": 1,
            "schedule": {
                "quartz_cron_expression": "0 0 5 * * ?",
                "timezone_id": "UTC",
                "pause_status": "PAUSED",
            },
        }
    }
    variables = {
        "catalog": {
            "description": "Unity Catalog's catalog of the tables",
            "default": project.spec.catalog or "main",
        },
        "lake": {
            "description": "Folder of a volume for Shoal's own tables: fleets, predictions",
            "default": f"/Volumes/{project.spec.catalog or 'main'}/{project.spec.schema}/shoal",
        },
        **{
            f"{model.name}_version": {
                "description": f"Version of {model.name} that its endpoint serves",
                "default": "1",
            }
            for model in models
        },
    }
    resources: dict[str, Any] = {
        "pipelines": {key: _pipeline(project, sources, wheel)},
        "jobs": jobs,
    }
    if models:
        resources["model_serving_endpoints"] = {
            model.name: _endpoint(project, model) for model in models
        }
    return {
        "bundle": {"name": key},
        "variables": variables,
        "resources": resources,
        "targets": {"dev": {"mode": "development", "default": True}, "prod": {}},
    }


def _pipeline(project: Project, sources: Sequence[Path], wheel: str) -> dict[str, Any]:
    return {
        "name": project.name,
        "catalog": "${var.catalog}",
        "schema": project.spec.schema,
        "serverless": True,
        "root_path": "./src",
        "libraries": [
            {"glob": {"include": f"./src/{path.relative_to(project.root).as_posix()}"}}
            for path in sources
        ],
        "configuration": dict(project.spec.configuration),
        "environment": {"dependencies": [f"./dist/{wheel}"]},
    }


def _step(key: str, after: str, action: str, model: ModelDeclaration) -> dict[str, Any]:
    parameters = [action, model.name, "--catalog", "${var.catalog}", "--lake", "${var.lake}"]
    return {
        "task_key": key,
        "depends_on": [{"task_key": after}],
        "spark_python_task": {
            "python_file": "./jobs/step.py",
            "parameters": [*parameters, "--project", "${workspace.file_path}/src"],
        },
        "environment_key": "shoal",
    }


def _endpoint(project: Project, model: ModelDeclaration) -> dict[str, Any]:
    name = f"{project.name}-{model.name}"
    entity = {
        "entity_name": model.name,
        "entity_version": f"${{var.{model.name}_version}}",
        "workload_size": "Small",
        "scale_to_zero_enabled": True,
    }
    return {"name": re.sub(r"[^\w-]+", "-", name), "config": {"served_entities": [entity]}}

"""``shoal init``, ``shoal demo`` and ``shoal version``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import as_json

__all__ = ["demo", "init", "version"]

_TEMPLATES = Path(__file__).parent / "templates"
_WORKFLOWS = {"github.yml": ".github/workflows/shoal.yml", "azure.yml": "azure-pipelines.yml"}


def _templates() -> list[str]:
    return sorted(path.name for path in _TEMPLATES.iterdir() if path.is_dir())


def write_template(template: str, folder: Path, name: str, storage: str | None = None) -> None:
    """Copies a template into a new folder.

    Args:
        template: Name of the template.
        folder: Where; it must not exist, or be empty.
        name: Name of the pipeline.
        storage: Root of the lake for ``shoal.toml``, if it is not the template's.

    Raises:
        ProjectError: The folder has files already, or cannot be made.
    """
    import shutil

    from shoal.errors import ProjectError
    from shoal.store import storage_url

    if storage is not None and "://" in storage and not storage.startswith("file:"):
        storage = storage_url(storage)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProjectError(
            f"{folder} exists already and is not empty.", hint="Choose another name."
        )
    try:
        shutil.copytree(
            _TEMPLATES / template,
            folder,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    except OSError as error:
        raise ProjectError(f"{folder} cannot be written: {error}") from error
    _write_workflows(folder)
    spec = folder / "spark-pipeline.yml"
    lines = spec.read_text().splitlines(keepends=True)
    spec.write_text("".join(f"name: {name}\n" if x.startswith("name:") else x for x in lines))
    if storage is not None:
        text = f"[profiles.default]\nstorage = {json.dumps(storage)}\n"
        (folder / "shoal.toml").write_text(text)


def _write_workflows(folder: Path) -> None:
    """What runs the project on GitHub and on Azure DevOps, for the first model by name."""
    model = min(path.stem for path in (folder / "models").glob("*.py"))
    for source, target in _WORKFLOWS.items():
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (_TEMPLATES.parent / "workflows" / source).read_text(encoding="utf-8")
        path.write_text(text.replace("@MODEL@", model), encoding="utf-8")


@command("shoal init flights && cd flights && python land.py && shoal run")
@click.argument("name")
@click.option(
    "--template",
    type=click.Choice(_templates()),
    default="flights",
    show_default=True,
    help="What to start from.",
)
def init(name: str, template: str) -> None:
    """Write a runnable project into the new folder NAME, with its workflows for CI."""
    folder = Path(name)
    write_template(template, folder, folder.name)
    click.echo(f"Wrote a '{template}' project to {folder}/")
    click.echo(
        f"\nNext:\n  cd {folder}\n  python land.py      # raw files into landing/\n  shoal run"
    )


@command("shoal demo --folder flights")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("shoal-demo"),
    show_default=True,
    help="New folder for the demo's project.",
)
@click.option(
    "--storage",
    metavar="URL",
    help="Where the lake is: another folder, or s3://, abfss://, az://, gs://.",
)
@as_json
def demo(folder: Path, storage: str | None, as_json: bool) -> None:
    """See it all work: real flights from raw files to a REST answer, in under two minutes."""
    from shoal.cli.demo import run_demo

    run_demo(folder, storage=storage, as_json=as_json)


@command("shoal version")
@as_json
def version(as_json: bool) -> None:
    """Print Shoal's version and those of what it stands on."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    found = {}
    for name in ("shoal", "pysail", "pyspark-client", "deltalake", "polars", "mlflow"):
        try:
            found[name] = installed(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    if as_json:
        show.print_json(found)
    else:
        for name, number in found.items():
            click.echo(f"{name} {number}")

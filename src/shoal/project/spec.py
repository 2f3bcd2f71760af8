"""``spark-pipeline.yml``, as the open Spark Declarative Pipelines specification defines it."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.errors import ProjectError
from shoal.project.keys import known_keys, table, text

__all__ = ["SPEC_NAMES", "PipelineSpec", "read_spec"]

SPEC_NAMES = ("spark-pipeline.yml", "spark-pipeline.yaml")
_KEYS = ("name", "storage", "catalog", "database", "schema", "configuration", "libraries")


@dataclass(frozen=True, kw_only=True)
class PipelineSpec:
    """A pipeline's specification.

    Args:
        file: Where it was read.
        name: The pipeline's name.
        storage: Root of the lake, as written: a path (relative to the file), a ``file:`` URI, or
            the URL of an object store.
        catalog: The default catalog, which three-part table names may give.
        schema: The default schema of table names without one.
        configuration: Spark configuration, text to text.
        libraries: Glob patterns of the source files, relative to the file.
    """

    file: Path
    name: str
    storage: str
    catalog: str | None = None
    schema: str = "default"
    configuration: Mapping[str, str] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()


def read_spec(file: Path) -> PipelineSpec:
    """Reads and checks a specification file.

    Raises:
        ProjectError: It is no YAML mapping, a required key is missing, a key is unknown (the
            message has the nearest one), or a value has the wrong type.
    """
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProjectError(
            f"{file.name} is no valid YAML: {error}", hint=f"Mend {file}."
        ) from error
    if not isinstance(found, dict):
        raise ProjectError(
            f"{file.name} must hold keys and values; found {type(found).__name__}.",
            hint="Write at least: name: my_pipeline, storage: lake, "
            "libraries: [{glob: {include: transformations/**}}]",
        )
    known_keys(found, _KEYS, file, "")
    for key in ("name", "storage"):
        if found.get(key) is None:
            raise ProjectError(
                f"{file.name}: the required key '{key}' is missing.", hint=f"Add it to {file}."
            )
    if "database" in found and "schema" in found:
        raise ProjectError(
            f"{file.name}: 'database' and 'schema' mean the same; found both.", hint="Keep one."
        )
    configuration = table(found, "configuration", file)
    for key, value in configuration.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ProjectError(
                f"{file.name}: configuration '{key}' must be text; found {value!r}.",
                hint=f'Quote it: {key}: "{value}"',
            )
    schema = text(found, "schema", file) or text(found, "database", file) or "default"
    return PipelineSpec(
        file=file,
        name=text(found, "name", file) or "",
        storage=text(found, "storage", file) or "",
        catalog=text(found, "catalog", file),
        schema=schema,
        configuration=configuration,
        libraries=_libraries(found.get("libraries"), file),
    )


def _libraries(entries: Any, file: Path) -> tuple[str, ...]:
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise ProjectError(
            f"{file.name}: 'libraries' must be a list; found {entries!r}.",
            hint="Write:\nlibraries:\n  - glob:\n      include: transformations/**",
        )
    patterns = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise ProjectError(
                f"{file.name}: a library must be a glob; found {entry!r}.",
                hint="Write:  - glob: {include: transformations/**}",
            )
        known_keys(entry, ("glob",), file, " in libraries")
        pattern = table(entry, "glob", file)
        known_keys(pattern, ("include",), file, " in libraries.glob")
        include = text(pattern, "include", file)
        if not include:
            raise ProjectError(
                f"{file.name}: a library's glob has no 'include'.",
                hint="Write:  - glob: {include: transformations/**}",
            )
        folder = include.removesuffix("/**")
        if glob.has_magic(folder) or Path(folder).is_absolute():
            raise ProjectError(
                f"{file.name}: the glob '{include}' is not allowed: it must be a file, "
                "or a folder followed by /**, relative to the specification.",
                hint="Write for example transformations/** or transformations/bronze.py",
            )
        patterns.append(include)
    return tuple(patterns)

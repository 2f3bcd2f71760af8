"""Loads a project's sources into a registry, as ``spark-pipelines`` does."""

from __future__ import annotations

import contextlib
import importlib.util
import linecache
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import (
    EngineError,
    PipelineError,
    ProjectError,
    RetryableError,
    ShoalError,
    TableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import ModuleType

    from pyspark.sql.connect.session import SparkSession

    from shoal.engines import Engine
    from shoal.lake import Lake
    from shoal.pipeline.registry import Registry
    from shoal.project import SourceFile

__all__ = ["declaring", "flow_error", "load_sources", "own_line", "project_folder", "run_source"]


def load_sources(
    files: Iterable[SourceFile],
    *,
    spark: SparkSession,
    lake: Lake,
    root: Path,
    configuration: Mapping[str, str] | None = None,
    engine: Engine | None = None,
) -> Registry:
    """Runs Python and R files and reads SQL files, collecting what they declare.

    Args:
        files: The source files.
        spark: The session; each file sees it as the global ``spark``.
        lake: Gives names their schema.
        root: Project folder; it is the current folder while a file runs.
        configuration: Values for ``${key}`` in SQL files.
        engine: The session's engine, which then refuses to execute anything for a source file.

    Raises:
        PipelineError: A declaration is wrong, or a file executes something.
        ProjectError: A file raises when it is imported.
    """
    from shoal.pipeline.registry import Registry
    from shoal.pipeline.rlang import load_r

    registry, scripts = Registry(lake, root, configuration), []
    with declaring(registry, spark, root, engine):
        for file in files:
            if file.path.suffix == ".sql":
                registry.register_sql(file.path.read_text(), Path(file.shown))
            elif file.path.suffix == ".R":
                scripts.append(file)
            else:
                run_source(file, spark=spark)
        load_r(registry, scripts, root, lake)
    return registry


@contextlib.contextmanager
def declaring(
    registry: Registry, spark: SparkSession, root: Path, engine: Engine | None = None
) -> Iterator[None]:
    """Lets what runs meanwhile declare datasets and flows, which the registry collects.

    Args:
        registry: It collects them.
        spark: The session of Databricks' own functions.
        root: Project folder; it is the current folder meanwhile.
        engine: The session's engine, which then refuses to execute anything.
    """
    from pyspark.pipelines.block_session_mutations import block_session_mutations
    from pyspark.pipelines.graph_element_registry import graph_element_registration_context

    functions = _functions_of(registry)  # made before what pyspark blocks
    nothing_runs = engine.resolving(lambda plan: plan) if engine else contextlib.nullcontext()
    with (
        project_folder(root),
        graph_element_registration_context(registry),
        _databricks_names(spark),
        block_session_mutations(),
        functions,
        nothing_runs,
    ):
        yield


def run_source(file: SourceFile, **names: object) -> ModuleType:
    """Runs one Python file as a module of its own, and gives the module.

    Args:
        file: The file.
        names: Globals that the file finds.

    Raises:
        ProjectError: The file raises; the message has its line.
    """
    name = f"shoal_project.{file.path.stem}"
    spec = importlib.util.spec_from_file_location(name, file.path)
    if spec is None or spec.loader is None:
        raise ProjectError(f"{file.shown} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    module.__dict__.update(names)
    # Dataclasses look their module up while it runs; afterwards its name must not be importable,
    # so that functions travel to other processes by value.
    sys.modules[name] = module
    try:
        # Compiled here, not by the loader: its cache knows a file by size and whole seconds, and
        # would run the old text of one that was edited twice within a second.
        linecache.checkcache(str(file.path))
        exec(compile(file.path.read_bytes(), str(file.path), "exec"), module.__dict__)  # noqa: S102
    except ShoalError as error:
        if f"{file.shown}:" not in error.message:
            error.message = f"{file.shown}:{_line(error, file)}: {error.message}"
        raise
    except Exception as error:
        raise ProjectError(
            f"{file.shown}:{_line(error, file)}: {type(error).__name__}: {error}",
            hint=f"Mend {file.shown}.",
        ) from error
    finally:
        sys.modules.pop(name, None)
    return module


def _line(error: Exception, file: SourceFile) -> int:
    """The line of a source file at which an error came up."""
    if isinstance(error, SyntaxError) and error.filename == str(file.path) and error.lineno:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file.path)]
    return next((line for line in reversed(lines) if line), 1)


@contextlib.contextmanager
def project_folder(root: Path) -> Iterator[None]:
    """Makes the project the current folder and importable, and restores both."""
    before, path = Path.cwd(), list(sys.path)
    os.chdir(root)
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path


def _functions_of(registry: Registry) -> contextlib.AbstractContextManager[None]:
    """Lets sources say ``spark.udf.register``, and notes what the functions do.

    A function in the session changes no flow by itself; one whose text names it is another flow
    when the function is another.
    """
    from pyspark import cloudpickle as pickles
    from pyspark.sql.connect.udf import UDFRegistration

    from shoal.engines import describe

    register: Any = UDFRegistration.register
    cloudpickle: Any = pickles

    def noted(self: Any, name: str, f: Any, *more: Any, **options: Any) -> Any:
        function = getattr(f, "func", f)
        registry.functions[name] = describe(function)
        module = sys.modules.get(getattr(function, "__module__", ""))
        # The file's module is importable only while it runs: what it defines travels by value.
        if module is None or not module.__name__.startswith("shoal_project."):
            return register(self, name, f, *more, **options)
        cloudpickle.register_pickle_by_value(module)
        try:
            return register(self, name, f, *more, **options)
        finally:
            cloudpickle.unregister_pickle_by_value(module)

    @contextlib.contextmanager
    def allowed() -> Iterator[None]:
        blocked = UDFRegistration.register
        UDFRegistration.register = noted  # type: ignore[method-assign]
        try:
            yield
        finally:
            UDFRegistration.register = blocked  # type: ignore[method-assign]

    return allowed()


@contextlib.contextmanager
def _databricks_names(spark: SparkSession) -> Iterator[None]:
    """Lets sources say ``dp.expect(...)`` and ``import dlt``, which open Spark has not."""
    from pyspark import pipelines

    from shoal.pipeline.databricks import databricks_names, dlt_module

    names = databricks_names(spark)
    other = sys.modules.get("dlt")  # a package of that name may be installed
    sys.modules["dlt"] = dlt_module(spark)
    before = {name: getattr(pipelines, name) for name in names if hasattr(pipelines, name)}
    for name, function in names.items():
        setattr(pipelines, name, function)
    try:
        yield
    finally:
        for name in names:
            delattr(pipelines, name)
        for name, function in before.items():
            setattr(pipelines, name, function)
        sys.modules.pop("dlt")
        if other is not None:
            sys.modules["dlt"] = other


def flow_error(location: str, error: Exception) -> ShoalError:
    """The error of a flow's function or query, with its place in the sources."""
    if isinstance(error, (PipelineError, RetryableError)):
        return type(error)(f"{location}: {error.message}", hint=error.hint)
    if isinstance(error, (EngineError, TableError)):
        return PipelineError(f"{location}: {error.message}", hint=error.hint)
    text = str(error).strip().splitlines()
    if len(text) > 1 and "Traceback (most recent call last):" in text:
        # A function that the engine ran over batches: its own error, and its innermost line in
        # the person's files.
        own = [at for at in re.findall(r'File "(/.+)", line (\d+)', str(error)) if _own(at[0])]
        where = f" ({Path(own[-1][0]).name}:{own[-1][1]})" if own else ""
        return PipelineError(f"{location}: {text[-1]}{where}")
    return PipelineError(f"{location}: {type(error).__name__}: {text[0] if text else error}")


def own_line(error: Exception, root: Path) -> str | None:
    """The innermost line of the project's own files at which an error came up, ``file:line``."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(root) and _own(frame.filename):
            return f"{path.relative_to(root)}:{frame.lineno}"
    return None


def _own(file: str) -> bool:
    return "site-packages" not in file and not file.startswith(sys.prefix)

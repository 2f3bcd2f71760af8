"""Runs the tables of a project, a file or a test over rows that the test gives."""

from __future__ import annotations

import contextlib
import inspect
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from shoal.errors import ExpectationFailed, PipelineError, ProjectError, nearest
from shoal.testing.inputs import put
from shoal.testing.result import Given, Result, Scratch
from shoal.testing.spark import engine, session

if TYPE_CHECKING:
    from shoal.lake import TableName
    from shoal.pipeline import Graph, Refresh
    from shoal.pipeline.registry import Registry
    from shoal.project import Project, SourceFile

__all__ = ["Source", "load", "run"]

Source: TypeAlias = "str | Path | ModuleType | Callable[..., Any]"


def load(path: str | Path) -> ModuleType:
    """Runs one Python source file and gives its module, with the functions as they were written.

    The file finds the session as ``spark``, as in a run. Its functions can be called, or given to
    `run`.

    Args:
        path: The file; a relative one starts at the current folder.

    Raises:
        ProjectError: There is no such file, or it raises.
        PipelineError: A declaration is wrong.
    """
    from shoal.lake import Lake
    from shoal.pipeline import declaring, run_source
    from shoal.pipeline.registry import Registry

    place = _place([path])
    file = _file(Path(path), place.root)
    with tempfile.TemporaryDirectory() as unused:
        registry = Registry(Lake(unused, place.schema, catalog=place.catalog), place.root)
        with declaring(registry, session(), place.root):
            return run_source(file, spark=session())


def run(
    sources: Source | Sequence[Source],
    inputs: Mapping[str, Given] | None = None,
    *,
    select: str | Sequence[str] = (),
    check: bool = True,
) -> Result:
    """Runs declared tables over in-memory rows, on the embedded engine, in a lake of its own.

    A table for which rows are given takes the place of the one that the sources declare. The run
    refreshes the tables that are made from the given ones, directly or not, and what else those
    are made from; all tables when no rows are given.

    Args:
        sources: What declares the tables: a project's folder, a ``.py``, ``.sql`` or ``.R`` file,
            a module of `load`, functions of such a module (only their tables then), or a function
            without arguments that makes declarations when it is called; or several of these.
        inputs: Rows by table name: dicts in a list (a column that a dict leaves out is null), or a
            pandas, Polars, Arrow or Spark frame.
        select: Refresh these tables instead, and what they are made from; ``silver.*`` works.
        check: Raise the error of a table that failed; False gives its refresh in the result.

    Returns:
        The tables by name, the expectations' counts, and how to run again.

    Raises:
        ExpectationFailed: A row broke an ``expect_or_fail``.
        PipelineError: A declaration is wrong, a table failed, or a table that is read is neither
            declared nor given.
        ProjectError: A source file does not exist or raises.
    """
    given = [sources] if isinstance(sources, str) or not isinstance(sources, Sequence) else sources
    wanted = [select] if isinstance(select, str) else list(select)
    return _Case(list(given), list(inputs or ()), wanted).run(inputs or {}, check=check)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where sources belong: their folder, and how a project there reads names."""

    root: Path
    schema: str = "default"
    catalog: str | None = None
    configuration: Mapping[str, str]
    project: Project | None = None


def _place(sources: Sequence[Source]) -> _Place:
    """The project around the first source that has a file; else the current folder."""
    from shoal.project import find_project

    paths = [path for source in sources if (path := _path(source)) is not None]
    start = (paths[0] if paths else Path.cwd()).absolute()
    if not start.exists():
        raise ProjectError(f"There is no file or folder {start}.", hint="Mend the path.")
    folder = start if start.is_dir() else start.parent
    try:
        project = find_project(folder)
    except ProjectError:
        if start.is_dir() and paths:
            raise
        return _Place(root=folder, configuration={})
    return _Place(
        root=project.root,
        schema=project.spec.schema,
        catalog=project.spec.catalog,
        configuration=project.spec.configuration,
        project=project,
    )


def _path(source: Source) -> Path | None:
    """The folder or file of a source; None for a function that makes declarations."""
    from shoal.pipeline.expectations import registered

    if isinstance(source, str | Path):
        return Path(source)
    if isinstance(source, ModuleType):
        return Path(str(source.__file__))
    if registered(source):
        return Path(inspect.unwrap(source).__code__.co_filename)
    return None


def _file(path: Path, root: Path) -> SourceFile:
    from shoal.project import SourceFile

    whole = path.absolute()
    if not whole.is_file() or whole.suffix not in {".py", ".sql", ".R"}:
        raise ProjectError(
            f"{whole} is no source file.",
            hint="Give a .py, .sql or .R file, or a project's folder.",
        )
    return SourceFile(path=whole, shown=os.path.relpath(whole, root))


class _Case:
    """Sources and the names of their inputs, with the lake of the test's runs.

    Args:
        sources: What declares the tables.
        inputs: Names of the tables whose rows are given.
        select: The tables to refresh; none means those made from the inputs.
    """

    def __init__(self, sources: list[Source], inputs: list[str], select: list[str]) -> None:
        from shoal.lake import Lake

        self.place = _place(sources)
        self.kept = Scratch(Path(tempfile.mkdtemp(prefix="shoal-test-")))
        self.lake = Lake(self.kept.path, self.place.schema, catalog=self.place.catalog)
        self.sources, self.select = sources, select
        self.inputs = frozenset(map(self.lake.name, inputs))
        self.declared: frozenset[TableName] = frozenset()

    def run(
        self, rows: Mapping[str, Given], *, full_refresh: Sequence[str] = (), check: bool
    ) -> Result:
        """Appends rows, refreshes the tables, and gives what is there then."""
        from shoal.pipeline import chosen, run_graph

        new = [name for name in rows if self.lake.name(name) not in self.inputs]
        if new:
            raise PipelineError(
                f"'{new[0]}' was not among the inputs of the first run.",
                hint="Give it there too; an empty typed frame is enough.",
            )
        with self._configured():
            registry, functions = self._declared()
            put(rows, registry.datasets, self.lake)
            self.declared = frozenset(registry.datasets)
            for name in self.inputs:
                registry.datasets.pop(name, None)
            registry.flows[:] = [f for f in registry.flows if f.target not in self.inputs]
            graph = self._graph(registry, functions)
            ended = run_graph(
                graph,
                engine(),
                self.lake,
                self.place.root,
                chosen(graph, self.lake, full_refresh=full_refresh),
            )
        if check:
            _raise(ended)
        refreshes = {str(done.name): done for done in ended}
        return Result(lake=self.lake, refreshes=refreshes, again=self.run, kept=self.kept)

    @contextlib.contextmanager
    def _configured(self) -> Iterator[None]:
        """The session with the project's configuration, and as it was afterwards."""
        conf = session().conf
        before = {key: conf.get(key, None) for key in self.place.configuration}
        for key, value in self.place.configuration.items():
            conf.set(key, value)
        try:
            yield
        finally:
            for key, old in before.items():
                conf.unset(key) if old is None else conf.set(key, old)

    def _declared(self) -> tuple[Registry, list[Callable[..., Any]]]:
        """What the sources declare, and the functions whose tables alone are asked for."""
        from shoal.pipeline import declaring, load_sources

        functions: list[Callable[..., Any]] = []
        calls: list[Callable[..., Any]] = []
        files: dict[Path, SourceFile] = {}
        for source in self.sources:
            path = _path(source)
            if path is None and callable(source):
                calls.append(source)
                continue
            assert path is not None
            if path.is_dir():
                project = self.place.project
                assert project is not None
                files |= {file.path: file for file in project.transformations()}
                continue
            file = _file(path, self.place.root)
            files[file.path] = file
            if callable(source):
                functions.append(source)
        registry = load_sources(
            files.values(),
            spark=session(),
            lake=self.lake,
            root=self.place.root,
            configuration=self.place.configuration,
        )
        with declaring(registry, session(), self.place.root):
            for call in calls:
                call()
        return registry, functions

    def _graph(self, registry: Registry, functions: Sequence[Callable[..., Any]]) -> Graph:
        from shoal.pipeline import analyse, chosen
        from shoal.pipeline.graph import Graph, Node

        own = {_code(function) for function in functions}
        asked = {f.target for f in registry.flows if callable(f.query) and _code(f.query) in own}

        def keep(reads: Mapping[TableName, frozenset[TableName]]) -> Collection[TableName]:
            start = set(asked)
            if self.select:
                every = {n: Node(dataset=d, queries=()) for n, d in registry.datasets.items()}
                start |= chosen(Graph(nodes=every), self.lake, select=self.select).only or set()
            if not start:
                start = _made_from(self.inputs, reads) if self.inputs else set(reads)
            found = _upstream(start, reads)
            self._refuse_unknown(found, reads, registry)
            return found

        return analyse(registry, lake=self.lake, root=self.place.root, engine=engine(), keep=keep)

    def _refuse_unknown(
        self,
        kept: Collection[TableName],
        reads: Mapping[TableName, frozenset[TableName]],
        registry: Registry,
    ) -> None:
        known = {*registry.datasets, *(read for found in reads.values() for read in found)}
        for unread in sorted(self.inputs - known - self.declared):
            close = nearest(str(unread), map(str, known | self.declared))
            raise PipelineError(
                f"Rows are given for '{unread}', which nothing in the sources reads or declares.",
                hint=f"Did you mean '{close}'?" if close else "Leave it out.",
            )
        for name in kept:
            for read in sorted(reads[name]):
                if read not in registry.datasets and read not in self.inputs:
                    given = ", ".join(map(str, sorted(self.inputs))) or "none"
                    raise PipelineError(
                        f"{registry.datasets[name].location}: '{name}' reads '{read}', which is "
                        f"neither declared nor among the inputs ({given}).",
                        hint=f'Give its rows: inputs={{"{read}": [...]}}',
                    )


def _code(function: Any) -> tuple[str, int] | None:
    """Where a function stands: file and line, the same when its file runs again."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else None


def _made_from(
    inputs: Collection[TableName], reads: Mapping[TableName, frozenset[TableName]]
) -> set[TableName]:
    """All that reads these tables, directly or not."""
    found: set[TableName] = set()
    while more := {n for n, read in reads.items() if read & (found | set(inputs))} - found:
        found |= more
    return found


def _upstream(
    names: Collection[TableName], reads: Mapping[TableName, frozenset[TableName]]
) -> set[TableName]:
    """These and all that they are made from."""
    found: set[TableName] = set()
    while more := set(names) - found:
        found |= more
        names = [read for name in more for read in reads[name] if read in reads]
    return found


def _raise(ended: Sequence[Refresh]) -> None:
    """Raises the error of the first table that failed."""
    for done in ended:
        if done.error is None or str(done.status) != "failed":
            continue
        broke = [c for c in done.expectations if c.failed and c.expectation.action == "fail"]
        if broke:
            raise ExpectationFailed(done.error, counts=done.expectations)
        raise PipelineError(f"{done.name}: {done.error}")

"""What R sources declare: read by running R once for all of a project's R code."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shoal.errors import PipelineError, ShoalError
from shoal.pipeline.definitions import Dataset, Flow, Kind, LocalFunction
from shoal.pipeline.expectations import Action, Expectation
from shoal.pipeline.local import checked, declare, stream
from shoal.pipeline.rlang.exchange import read_frame, write_frame
from shoal.pipeline.rlang.process import run_job

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.lake import Lake
    from shoal.pipeline.registry import Registry
    from shoal.project import SourceFile

__all__ = ["RFunction", "RResult", "load_r", "r"]

Function = TypeVar("Function", bound=Callable[..., Any])
_ACTIONS: dict[str, Action] = {
    "expect": "warn",
    "expect_or_drop": "drop",
    "expect_or_fail": "fail",
}


@dataclass(frozen=True, kw_only=True)
class RResult:
    """What an R function gave.

    Args:
        rows: Its data frame.
        notes: R's warnings.
    """

    rows: pa.Table
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RFunction:
    """A function in R; calling it runs R.

    Args:
        shown: Its source, for messages.
        script: The R file, or R code.
        target: The table it is declared for in its file; None where the code ends with it.
        names: Its arguments, in the order of the inputs; empty for one by position.
        inputs: The inputs' tables, for messages.
        root: Project folder.
        timeout: Seconds that it may take.
    """

    shown: str
    script: Path | str
    target: str | None
    names: tuple[str, ...]
    inputs: tuple[str, ...]
    root: Path
    timeout: float | None = None

    def __call__(
        self, *tables: pa.Table, folder: Path, stopped: Callable[[], bool] = lambda: False
    ) -> RResult:
        """Runs R over tables.

        Args:
            tables: The inputs.
            folder: A private folder for the exchange.
            stopped: Asked all the time; true ends R.

        Raises:
            PipelineError: The function failed; see `run_job`.
        """
        field = "inline" if self.target is None else "script"
        code = _file(self.script, folder / "code.R")
        job = [(field, self.shown, str(code), self.target or "")]
        for index, (name, table) in enumerate(zip(self.names, tables, strict=True)):
            path = folder / f"table-{index}.bin"
            write_frame(table, path, self.inputs[index])
            job.append(("table", name, str(path), ""))
        notes = run_job(
            job,
            folder,
            root=self.root,
            needed_by=self.shown,
            stopped=stopped,
            timeout=self.timeout,
        )
        return RResult(rows=read_frame(folder / "result.bin"), notes=notes)


def _file(script: Path | str, path: Path) -> Path:
    if isinstance(script, Path):
        return script
    path.write_text(script, encoding="utf-8")
    return path


def r(*tables: str, timeout: float | None = None, **named: str) -> Callable[[Function], Function]:
    """Declares a flow that is a function of data frames, in R.

    The Python function returns the R code, or a ``pathlib.Path`` of an R file relative to the
    project; the code's last value is the function::

        @dp.materialized_view(name="gold.fit")
        @shoal.r(flights="silver.flights")
        def fit():
            return '''
            function(flights) {
              fit <- lm(delay ~ distance, flights)
              data.frame(term = names(coef(fit)), value = coef(fit))
            }
            '''

    Tables can be declared in R itself too: see `shoal.pipeline.rlang`.

    Args:
        tables: Inputs by position; `stream` marks those of which only new rows are wanted.
        timeout: Seconds after which R is ended and the refresh fails; None means never.
        named: Inputs by the name of the R function's argument.

    Raises:
        PipelineError: The Python function gives no R code.
    """
    inputs = (*tables, *named.values())
    checked("r", inputs)

    def decorate(function: Function) -> Function:
        code = function() if callable(function) else ""
        if not isinstance(code, str | Path):
            raise PipelineError(
                f"{function.__name__}() must return R code or the Path of an R file; it returned "
                f"{type(code).__name__}.",
                hint='Write for example: return "function(flights) head(flights)"',
            )
        if isinstance(code, Path) and not code.is_file():
            raise PipelineError(
                f"{function.__name__}() names the R file '{code}', which does not exist.",
                hint="Paths are relative to the project's folder.",
            )
        name = getattr(function, "__name__", "")
        call = RFunction(
            shown=str(code) if isinstance(code, Path) else f"R code of {name}()",
            script=code.absolute() if isinstance(code, Path) else code,
            target=None,
            names=(*("" for _ in tables), *named),
            inputs=tuple(map(str, inputs)),
            root=Path.cwd(),
            timeout=timeout,
        )
        return declare("r", tables, named, function, call, lambda: str(code))

    return decorate


def load_r(registry: Registry, scripts: Sequence[SourceFile], root: Path, lake: Lake) -> None:
    """Adds what R files declare, and checks the R code of Python files, by one run of R.

    Nothing happens where there is no R at all.

    Args:
        registry: Where the declarations go.
        scripts: The R files.
        root: Project folder.
        lake: Gives names their schema.

    Raises:
        PipelineError: R is not installed, or the code is wrong; the message has the R line.
    """
    inline = {
        index: flow.local.call
        for index, flow in enumerate(registry.flows)
        if flow.local is not None and isinstance(flow.local.call, RFunction)
    }
    if not scripts and not inline:
        return
    with tempfile.TemporaryDirectory(prefix="shoal-r-") as made:
        folder = Path(made)
        job = [("declare", "", "", "")]
        job += [("script", file.shown, str(file.path), "") for file in scripts]
        for index, call in inline.items():
            code = _file(call.script, folder / f"code-{index}.R")
            labels = " ".join(name or "?" for name in call.names)
            shown = f"{registry.flows[index].location}: {call.shown}"
            job.append(("inline", shown, str(code), labels))
        first = [file.shown for file in scripts] + [registry.flows[i].location for i in inline]
        run_job(job, folder, root=root, needed_by=first[0])
        flows = _flows(read_frame(folder / "flows.bin"))
    checked_code = [flow for flow in flows if "inline" in flow]
    for index, found in zip(inline, checked_code, strict=True):
        flow = registry.flows[index]
        assert flow.local is not None
        text = f"{flow.local.source()} {found['code'][0][1]}"
        local = replace(flow.local, source=partial(str, text))
        registry.flows[index] = replace(flow, local=local)
    paths = {file.shown: file.path for file in scripts}
    for found in flows:
        if "inline" not in found:
            location = f"{found['file'][0][1]}:{found['line'][0][1]}"
            try:
                _add(found, location, paths, registry, root, lake)
            except ShoalError as error:
                if location not in error.message:
                    error.message = f"{location}: {error.message}"
                raise


Fields = Mapping[str, list[tuple[str, str]]]


def _flows(table: pa.Table) -> list[Fields]:
    """The declarations: by field, the names and values."""
    found: dict[int, dict[str, list[tuple[str, str]]]] = {}
    for row in table.to_pylist():
        fields = found.setdefault(row["flow"], {})
        fields.setdefault(row["field"], []).append((row["name"], row["value"]))
    return list(found.values())


def _add(
    found: Fields,
    location: str,
    paths: Mapping[str, Path],
    registry: Registry,
    root: Path,
    lake: Lake,
) -> None:
    def one(field: str) -> str | None:
        return found[field][0][1] if field in found else None

    shown, target = found["file"][0][1], found["target"][0][1]
    inputs = [
        (name, stream(table) if field == "stream" else table)
        for field in ("input", "stream")
        for name, table in found.get(field, [])
    ]
    checked("r", tuple(table for _, table in inputs))
    timeout = one("timeout")
    call = RFunction(
        shown=shown,
        script=paths[shown],
        target=target,
        names=tuple(name for name, _ in inputs),
        inputs=tuple(str(table) for _, table in inputs),
        root=root,
        timeout=None if timeout is None else float(timeout),
    )
    text = f"r {call.names} {one('code')}"
    local = LocalFunction(
        language="r",
        inputs=call.inputs,
        streaming=frozenset(table for _, table in found.get("stream", [])),
        call=call,
        source=partial(str, text),
    )
    name = lake.name(target)
    registry.add_dataset(
        Dataset(
            name=name,
            kind=Kind(found["kind"][0][1]),
            location=location,
            comment=one("comment"),
            partition_by=tuple(column for _, column in found.get("partition_by", [])),
            schema=one("schema"),
            properties=dict(found.get("properties", [])),
        )
    )
    registry.add_flow(
        Flow(
            name=target,
            target=name,
            query="",
            location=location,
            expectations=tuple(
                Expectation(name=label or condition, condition=condition, action=action)
                for field, action in _ACTIONS.items()
                for label, condition in found.get(field, [])
            ),
            local=local,
        )
    )

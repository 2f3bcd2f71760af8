"""What goes to the engine, on its way: requests of the Spark Connect channel, rewritten.

Protocol: Spark Connect's ``base.proto`` (``AnalyzePlanRequest``, ``ExecutePlanRequest``). A gRPC
interceptor sees what every method of a DataFrame asks for, so a session needs no patches.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import grpc  # type: ignore[import-untyped]

from shoal.engines.koalas import uses_internal_functions, without_internal_functions
from shoal.engines.older import OlderVersions
from shoal.engines.plan import ExecutionRefused, messages_of

if TYPE_CHECKING:
    from pyspark.sql.connect.proto import Plan

__all__ = ["Interceptor"]

Resolve = Callable[["Plan"], "Plan"]

_QUERIES = ("select", "with", "from", "values", "table", "(", "/*", "--")


class Interceptor(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
):
    """Rewrites the plans of requests for columns, and refuses rows while flows are analysed.

    Attributes:
        sail: The engine is Sail, for which pandas-on-Spark's own functions are spelled out. Apache
            Spark looks tables up when it is given SQL text, so while flows are analysed, a query
            in SQL is answered here: by itself.
    """

    def __init__(self) -> None:
        self.sail = True
        self._given = threading.local()
        self._older = OlderVersions()

    @contextlib.contextmanager
    def resolving(self, resolve: Resolve | None) -> Iterator[None]:
        """Lets a function rewrite what this thread asks about; nothing is executed meanwhile.

        Args:
            resolve: Gives the plan with other relations in place of names; None asks as usual.
        """
        before = self._resolve
        self._given.resolve = resolve
        try:
            yield
        finally:
            self._given.resolve = before

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """A request for an answer about a plan: its columns, for example."""
        if details.method.endswith("/AnalyzePlan"):
            kind = request.WhichOneof("analyze")
            asked = getattr(request, kind) if kind else None
            if asked is not None and "plan" in asked.DESCRIPTOR.fields_by_name:
                request = self._spelled(request)
                if self._resolve is not None:
                    request = _copied(request)
                    plan = getattr(request, kind).plan
                    plan.CopyFrom(self._resolve(plan))
        return continuation(details, request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """A request to execute a plan."""
        if details.method.endswith("/ExecutePlan"):
            if self._resolve is not None and _only_for_a_warning():
                request = _copied(request)
                request.plan.root.Clear()
                request.plan.root.range.end, request.plan.root.range.step = 1, 1
            elif self._resolve is not None:
                _refuse(request.plan)
                if not self.sail and request.plan.command.HasField("sql_command"):
                    return iter(_unlooked(request))
            request = self._spelled(request)
        return continuation(details, request)

    @property
    def _resolve(self) -> Resolve | None:
        return cast("Resolve | None", getattr(self._given, "resolve", None))

    def _spelled(self, request: Any) -> Any:
        """The request as Sail understands it."""
        if not self.sail:
            return request
        internal = uses_internal_functions(request)
        if not internal and not self._older.found(messages_of(request)):
            return request
        copy = _copied(request)
        if internal:
            without_internal_functions(copy)
        self._older.lead(self._older.found(messages_of(copy)))
        return copy


def _copied(request: Any) -> Any:
    copy = type(request)()
    copy.CopyFrom(request)
    return copy


def _unlooked(request: Any) -> list[Any]:
    """The answer to a query in SQL text: the relation that it was sent as."""
    from pyspark.sql.connect.proto import ExecutePlanResponse

    given = request.plan.command.sql_command
    same = {"session_id": request.session_id, "operation_id": request.operation_id}
    answer = ExecutePlanResponse(**same)
    answer.sql_command_result.relation.CopyFrom(given.input)
    end = ExecutePlanResponse.ResultComplete()
    return [answer, ExecutePlanResponse(**same, result_complete=end)]


def _only_for_a_warning() -> bool:
    """Whether ``ps.concat`` asks if its frames are empty: it only warns then, and uses no row."""
    names = {
        frame.f_code.co_name
        for frame, _ in traceback.walk_stack(None)
        if frame.f_code.co_filename.endswith(("pandas/namespace.py", "pandas/frame.py"))
    }
    return {"concat", "empty"} <= names


def _refuse(plan: Plan) -> None:
    """Raises for a plan that a flow's function would execute."""
    kind = plan.command.WhichOneof("command_type")
    if kind == "register_function":
        return
    if kind == "sql_command":
        command = plan.command.sql_command
        given = command.input
        if given.WhichOneof("rel_type") == "with_relations":
            given = given.with_relations.root
        text = (given.sql.query or command.sql).strip()
        if text.lower().startswith(_QUERIES):
            return
        what = f"it executes the statement {text.split(maxsplit=1)[0].upper()}"
    elif kind:
        what = f"it executes a command ({kind})"
    else:
        what = "it asks for rows (collect, count, show, toPandas, ...)"
    raise ExecutionRefused(
        f"{what}, but a project's sources only say what to compute: no row is read or written "
        "while they are loaded.",
        hint="Return the DataFrame without looking at its rows from a flow's function; its columns "
        "may be asked for.",
    )

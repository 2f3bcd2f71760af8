"""The workspace: what is done with a project."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shoal.errors import ProjectError, RequestError, ShoalError, TrackingError
from shoal.workspace.opened import Opened
from shoal.workspace.report import (
    ModelPlan,
    ModelReport,
    RunReport,
    ScoreReport,
    SearchReport,
    TableReport,
)
from shoal.workspace.search import search_model
from shoal.workspace.training import Scope, last_training, train_model

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.models import Fleet, ModelDeclaration
    from shoal.pipeline import Decision, Refresh, RunOptions
    from shoal.serving import ServedModels
    from shoal.tracking import ModelVersion
    from shoal.workspace.evaluations import Evaluation
    from shoal.workspace.events import Quality
    from shoal.workspace.lineage import Lineage
    from shoal.workspace.maintain import Maintenance
    from shoal.workspace.promotion import Promotion
    from shoal.workspace.remote import RemoteFleet

__all__ = ["Workspace"]


class Workspace(Opened):
    """A project, ready to work; close it, or use it as a context manager.

    Args:
        project: The project.
        on_event: Called with ``(stage, name, value)`` while work goes on: ``("table", name,
            "start" | TableReport)``, ``("train", name, (done, total) | ModelReport)``, ``("score",
            name, rows | ScoreReport)``. It may be called from several threads.
    """

    @cached_property
    def maintenance(self) -> Maintenance:
        """Care of the tables: restore, diff, clone, optimize, vacuum, checks."""
        from shoal.workspace.maintain import Maintenance

        return Maintenance(self)

    @cached_property
    def lineage(self) -> Lineage:
        """Where the tables' columns come from."""
        from shoal.workspace.lineage import Lineage

        return Lineage.of(self)

    def options(
        self,
        *,
        select: Sequence[str] = (),
        full_refresh: Sequence[str] = (),
        full_refresh_all: bool = False,
        until: Sequence[str] = (),
    ) -> RunOptions:
        """Names as a user writes them, resolved; see `shoal.pipeline.chosen`.

        Raises:
            PipelineError: The pipeline declares no such table.
        """
        from shoal.pipeline import chosen

        return chosen(
            self.graph,
            self.lake,
            select=select,
            full_refresh=full_refresh,
            full_refresh_all=full_refresh_all,
            until=until,
        )

    def plan(self, options: RunOptions) -> tuple[list[Decision], list[ModelPlan]]:
        """What a run would refresh and train, and why; nothing is written.

        Raises:
            PipelineError: A declaration is wrong.
        """
        from shoal.pipeline import plan_run

        decisions = plan_run(self.graph, self.lake, self.project.root, options)
        changing = {str(decision.name) for decision in decisions if decision.action != "none"}
        return decisions, [self._stale(model, changing) for model in self.models.values()]

    def _stale(self, declaration: ModelDeclaration, changing: set[str]) -> ModelPlan:
        name = str(self.lake.name(declaration.table))
        table = self.lake.table(name)

        def plan(stale: bool, reason: str) -> ModelPlan:
            return ModelPlan(model=declaration.name, table=name, stale=stale, reason=reason)

        champion = self._champion(declaration.name)
        if champion is None:
            return plan(True, "it has no champion yet")
        if declaration.promote_if or self.audit.decided(declaration.name):
            # What is in use was chosen; the newest training tells whether there is news.
            champion = last_training(self, declaration.name) or champion
        if champion.tags.get("shoal.fingerprint") != declaration.fingerprint():
            return plan(True, "its definition changed")
        if name in changing:
            return plan(True, f"follows {name}")
        if table.exists():
            tags = champion.tags
            seen = tags.get("shoal.current_version", tags.get("shoal.table_version"))
            trained = seen, tags.get("shoal.table_id")
            if trained != (str(table.version()), table.id()):
                return plan(True, f"{name} is at version {table.version()}, it saw {trained[0]}")
        return plan(False, "nothing changed")

    def _champion(self, name: str) -> ModelVersion | None:
        if name not in self.tracker.models():
            return None
        try:
            return self.tracker.resolve(f"{name}@champion")
        except TrackingError:
            return None

    def run(self, options: RunOptions, *, models: bool = True) -> RunReport:
        """Refreshes the tables, trains what is stale, and scores what is new.

        A part that fails is reported and does not stop the others; a model whose table failed is
        not trained.

        Args:
            options: Which tables.
            models: Also train and score.

        Raises:
            PipelineError: A declaration is wrong; nothing ran.
            Conflict: Another run is writing to this lake.
        """
        begun = time.perf_counter()
        tables = self.refresh(options)
        report = self.learn(tables) if models else RunReport(tables=tuple(tables))
        return replace(report, seconds=time.perf_counter() - begun)

    def learn(self, tables: Sequence[TableReport]) -> RunReport:
        """The second half of `run`: trains what is stale, and scores what is new.

        Args:
            tables: The tables as they were refreshed.
        """
        begun = time.perf_counter()
        broken = {table.table for table in tables if table.status in {"failed", "skipped"}}
        ready = [m for m in self.models.values() if str(self.lake.name(m.table)) not in broken]
        trained = [self._train_if_stale(declaration) for declaration in ready]
        scored = [self._score(declaration) for declaration in ready]
        return RunReport(
            tables=tuple(tables),
            models=tuple(trained),
            scores=tuple(scored),
            seconds=time.perf_counter() - begun,
        )

    def run_continuous(
        self,
        options: RunOptions,
        *,
        trigger: float = 10.0,
        models: bool = True,
        max_failures: int | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[RunReport]:
        """Keeps running, and gives the report of each round in which anything happened.

        The sources stay as they were loaded: a change of the code needs a new start. A table that
        fails is reported in each round and tried again in the next. Models are trained and scored
        in the first round, and then when a table was refreshed. Stop asking, or interrupt, to end
        it: each table is at a whole version.

        Args:
            options: Which tables; a full refresh is done in the first round only.
            trigger: Seconds from the start of a round to the start of the next.
            models: Also train and score.
            max_failures: End after so many failed rounds in a row; None never ends.
            stopped: Asked before each round; true interrupts.

        Raises:
            PipelineError: A declaration is wrong; nothing ran.
        """
        from shoal.workspace.continuous import run_continuous

        return run_continuous(
            self,
            options,
            trigger=trigger,
            models=models,
            max_failures=max_failures,
            stopped=stopped,
        )

    def refresh(self, options: RunOptions) -> list[TableReport]:
        """Refreshes the tables; see `run`."""
        from shoal.pipeline import run_graph

        reports: list[TableReport] = []

        def done(result: Refresh) -> None:
            reports.append(_table_report(result))
            self.on_event("table", str(result.name), reports[-1])

        run_graph(
            self.graph,
            self.engine,
            self.lake,
            self.project.root,
            options,
            on_start=lambda name: self.on_event("table", str(name), "start"),
            on_done=done,
        )
        return reports

    def train(
        self,
        names: Sequence[str] = (),
        *,
        everything: bool = False,
        failed: bool = False,
        segments: Sequence[str] = (),
        batched: bool = True,
        trials: int | None = None,
        alias: str | None = "champion",
        promote: bool = False,
    ) -> list[ModelReport]:
        """Trains, tracks and registers models; fits only the segments that changed.

        Args:
            names: Which; all by default.
            everything: Fit all segments.
            failed: Also fit the members that failed in the last training.
            segments: Fit these segments alone, such as ``UA,IAH``; of one model.
            batched: Fit many segments at once where the maths allows.
            alias: Alias that the new version gets, or None. A model with a gate that has a champion
                gets a challenger.
            promote: Also make the new version the champion, if the gate lets it.
            trials: Trials of a declared search; the declared number by default.

        Raises:
            ProjectError: The project declares no such model, or segments of several are asked for.
        """
        chosen = self.declared(names)
        if segments and (len(chosen) != 1 or everything):
            raise ProjectError(
                "Segments are those of one model, and not all.",
                hint="shoal train MODEL --segment UA,IAH",
            )
        if trials is not None:
            self._check_searches(chosen)
        scope = Scope(
            everything=everything,
            failed=failed,
            segments=tuple(segments),
            batched=batched,
            trials=trials,
        )
        return [
            self._train(declaration, "asked for", alias, scope, promoting=promote)
            for declaration in chosen
        ]

    def search(self, names: Sequence[str] = (), *, trials: int | None = None) -> list[SearchReport]:
        """Searches for models' parameters on their tables as they are now; trains nothing.

        The next training takes what was found.

        Args:
            names: Which; by default all that declare a search.
            trials: How many trials; the declared number by default.

        Raises:
            ProjectError: The project declares no such model, or none that declares a search.
        """
        chosen = self.declared(names)
        self._check_searches(chosen)
        if not names:
            chosen = [declaration for declaration in chosen if declaration.search is not None]
        return [search_model(self, declaration, trials) for declaration in chosen]

    @staticmethod
    def _check_searches(chosen: Sequence[ModelDeclaration]) -> None:
        if not any(declaration.search is not None for declaration in chosen):
            raise ProjectError(
                f"No search is declared by {', '.join(d.name for d in chosen) or 'any model'}.",
                hint='@shoal.model(..., search=shoal.Search(space={"alpha": [0.1, 1.0, 10.0]}))',
            )

    def _train_if_stale(self, declaration: ModelDeclaration) -> ModelReport:
        plan = self._stale(declaration, set())
        if plan.stale:
            return self._train(declaration, plan.reason, "champion", promoting=True)
        champion = self._champion(declaration.name)
        return ModelReport(
            model=declaration.name,
            status="current",
            reason=plan.reason,
            version=champion.version if champion else None,
            table=plan.table,
            metric=declaration.metric,
        )

    def _train(
        self,
        declaration: ModelDeclaration,
        reason: str,
        alias: str | None,
        scope: Scope | None = None,
        *,
        promoting: bool = False,
    ) -> ModelReport:
        self.on_event("train", declaration.name, (0, 0))
        scope = scope or Scope()
        report = train_model(self, declaration, reason, alias, scope, promoting=promoting)
        self.on_event("train", declaration.name, report)
        return report

    def score(
        self,
        refs: Sequence[str] = (),
        *,
        everything: bool = False,
        url: str | None = None,
        token: str | None = None,
    ) -> list[ScoreReport]:
        """Writes predictions for rows that have none yet.

        Args:
            refs: ``delay``, ``delay@challenger`` or ``delay/3``; all declared models by default.
            everything: Score all rows again and replace the predictions.
            url: A running server that predicts; None predicts here.
            token: Its API token.
        """
        if not refs:
            refs = [model.name for model in self.declared(())]
        server = (url, token) if url else None
        pairs = [(self.declared([_model_name(ref)])[0], ref) for ref in refs]
        return [
            self._score(model, ref, everything=everything, server=server) for model, ref in pairs
        ]

    def _score(
        self,
        declaration: ModelDeclaration,
        ref: str | None = None,
        *,
        everything: bool = False,
        server: tuple[str, str | None] | None = None,
    ) -> ScoreReport:
        from shoal.workspace.score import score

        name = declaration.name
        self.on_event("score", name, 0)
        try:
            fleet: Fleet | RemoteFleet
            if server is not None:
                fleet, version = self._remote(ref or name, *server)
            else:
                version = self.tracker.resolve(ref or name)
                pinned, trust = f"{name}/{version.version}", declaration.trust_pickle
                fleet = self.tracker.fleet(pinned, trust_pickle=trust)
            with self.lake.writing():
                report = score(
                    declaration,
                    fleet,
                    version,
                    self.lake,
                    everything=everything,
                    progress=lambda rows: self.on_event("score", name, rows),
                )
        except ShoalError as error:
            report = ScoreReport(model=name, status="failed", reason="", error=str(error))
        self.on_event("score", name, report)
        return report

    def _remote(self, ref: str, url: str, token: str | None) -> tuple[RemoteFleet, ModelVersion]:
        from shoal.serving import Client
        from shoal.workspace.remote import RemoteFleet, served_version

        name = _model_name(ref)
        with Client(url, token=token, retries=5) as client:
            listing = client.models()
        found = next((model for model in listing if model["name"] == name), None)
        if found is None:
            served = ", ".join(model["name"] for model in listing)
            raise RequestError(f"{url} does not serve '{name}'; it serves {served}.")
        # Pinned, so that a promotion meanwhile does not mix versions.
        pinned = f"{name}/{served_version(found, ref)}"
        client = Client(url, model=pinned, token=token, retries=8)
        return RemoteFleet(client, found), self.tracker.resolve(pinned)

    def evaluate(self, model: str, **options: Any) -> Evaluation:
        """Compares two versions on the same rows; see `shoal.workspace.evaluate.evaluate`."""
        from shoal.workspace.evaluate import evaluate

        return evaluate(self, model, **options)

    def promote(self, model: str, version: str | int | None = None, **options: Any) -> Promotion:
        """Moves an alias on, by evidence; see `shoal.workspace.promotion.promote`."""
        from shoal.workspace.promotion import promote

        return promote(self, model, version, **options)

    def rollback(self, model: str, **options: Any) -> Promotion:
        """Moves an alias back; see `shoal.workspace.promotion.rollback`."""
        from shoal.workspace.promotion import rollback

        return rollback(self, model, **options)

    def sql(self, query: str, *, limit: int | None = None) -> pa.Table:
        """Runs a query over the lake's tables, each at its newest version.

        Args:
            query: One ``SELECT`` in Spark SQL.
            limit: At most so many rows.

        Raises:
            PipelineError: The query does not parse, or is no query.
            TableNotFound: It names a table that does not exist.
            EngineError: The engine refuses it.
        """
        from shoal.workspace.query import run_query

        return run_query(query, self.engine, self.lake, limit=limit)

    def events(
        self,
        table: str | None = None,
        *,
        run: str | None = None,
        level: str = "INFO",
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """What happened in runs, the newest last; see `shoal.workspace.events`.

        Raises:
            TableNotFound: No run was taken down yet, none has this id, or none had this table.
        """
        from shoal.workspace.events import events

        return events(self.lake, table=table, run=run, level=level, limit=limit)

    def quality(self, table: str | None = None, *, last: int = 10) -> list[Quality]:
        """How many rows met the expectations, over the runs; see `shoal.workspace.events`.

        Raises:
            TableNotFound: No run has checked an expectation yet, or none of this table.
        """
        from shoal.workspace.events import quality

        return quality(self.lake, table=table, last=last)

    def served(self, refs: Sequence[str] = (), *, trust_pickle: bool = False) -> ServedModels:
        """The registered models, opened for serving; the champions by default.

        Args:
            refs: Which.
            trust_pickle: Unpickle members that were pickled, which runs whatever code they hold.

        Raises:
            TrackingError: A model or version does not exist.
        """
        from shoal.serving import ServedModels

        return ServedModels.load(self.tracker, list(refs) or None, trust_pickle=trust_pickle)


def _model_name(ref: str) -> str:
    return ref.removeprefix("models:/").split("@")[0].split("/")[0]


def _table_report(result: Refresh) -> TableReport:
    return TableReport(
        table=str(result.name),
        kind=str(result.kind),
        status=str(result.status),
        refresh=result.action,
        reason=result.reason,
        version=result.version,
        rows=result.rows,
        files=result.files,
        dropped=result.dropped,
        rescued=result.rescued,
        seconds=result.seconds,
        expectations={
            f"{count.view}.{count.expectation.name}" if count.view else count.expectation.name: {
                "action": count.expectation.action,
                "passed": count.passed,
                "failed": count.failed,
            }
            for count in result.expectations
        },
        notes=result.notes,
        error=result.error,
        retryable=result.retryable,
    )

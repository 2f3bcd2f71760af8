"""What a workspace does with models: train, search, score, compare, move on, serve."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shoal.errors import ProjectError, RequestError, ShoalError, TableError, TrackingError
from shoal.lake import pinned_version
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
    import optuna

    from shoal.models import Fleet, ModelDeclaration
    from shoal.serving import ServedModels
    from shoal.tracking import ModelVersion
    from shoal.workspace.evaluations import Evaluation
    from shoal.workspace.promotion import Promotion
    from shoal.workspace.remote import RemoteFleet
    from shoal.workspace.watch import MonitorReport

__all__ = ["Learning"]


class Learning(Opened):
    """A project whose models can be worked with; see `Opened` for what it is made of."""

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

    def stale_plan(self, declaration: ModelDeclaration, changing: set[str]) -> ModelPlan:
        """Whether a run would train a model, and why.

        Args:
            declaration: The model.
            changing: Tables that the run would refresh.
        """
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
        if name in changing and declaration.pin is None:
            return plan(True, f"follows {name}")
        if table.exists():
            tags = champion.tags
            seen = tags.get("shoal.current_version", tags.get("shoal.table_version"))
            trained = seen, tags.get("shoal.table_id")
            try:
                pin = declaration.pin
                now = table.version() if pin is None else pinned_version(self.lake, table, pin)
            except TableError as error:
                return plan(True, error.message)
            if trained != (str(now), table.id()):
                where = f"is pinned to {declaration.pin}," if declaration.pin else "is at"
                return plan(True, f"{name} {where} version {now}, it saw {trained[0]}")
        return plan(False, "nothing changed")

    def _champion(self, name: str) -> ModelVersion | None:
        if name not in self.tracker.models():
            return None
        try:
            return self.tracker.resolve(f"{name}@champion")
        except TrackingError:
            return None

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

    def study(self, model: str, scope: str | None = None) -> optuna.Study:
        """The trials of a model's newest search as a study of Optuna's, in memory.

        Args:
            model: The model's name.
            scope: Key of a segment or group where each has its own search, such as ``["UA"]``.

        Raises:
            ProjectError: The project declares no such model.
            TrainingError: It has no such trials.
        """
        from shoal.training.search import optuna_study

        (declaration,) = self.declared([model])
        return optuna_study(declaration, self.lake, scope)

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
        plan = self.stale_plan(declaration, set())
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
        from shoal.models.code import own_digests
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
                known = own_digests(declaration.function)
                fleet = self.tracker.fleet(pinned, trust_pickle=trust, known_code=known)
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

    def monitor(self, names: Sequence[str] = ()) -> list[MonitorReport]:
        """Watches champions and tables over what is new; see `shoal.workspace.watch`.

        Args:
            names: Which models and tables (those with a dot); by default all declared models, and
                the tables of ``[monitor.tables]``.

        Raises:
            ProjectError: The project declares no such model.
        """
        from shoal.workspace.watch import monitor, monitor_table

        tables = [name for name in names if "." in name]
        models = [name for name in names if "." not in name]
        if not names:
            tables = sorted(self.project.monitor.tables)
        chosen = self.declared(models) if models or not names else []
        return [
            *(monitor(self, declaration.name) for declaration in chosen),
            *(monitor_table(self, name) for name in tables),
        ]

    def promote(self, model: str, version: str | int | None = None, **options: Any) -> Promotion:
        """Moves an alias on, by evidence; see `shoal.workspace.promotion.promote`."""
        from shoal.workspace.promotion import promote

        return promote(self, model, version, **options)

    def rollback(self, model: str, **options: Any) -> Promotion:
        """Moves an alias back; see `shoal.workspace.promotion.rollback`."""
        from shoal.workspace.promotion import rollback

        return rollback(self, model, **options)

    def served(self, refs: Sequence[str] = (), **opening: Any) -> ServedModels:
        """The registered models, opened for serving; the champions by default.

        Args:
            refs: Which.
            opening: How they are opened; see `shoal.serving.Opening`.

        Raises:
            TrackingError: A model or version does not exist.
        """
        from shoal.serving import Opening, ServedModels

        made = Opening(**opening)
        return ServedModels.load(self.tracker, list(refs) or None, opening=made)


def _model_name(ref: str) -> str:
    return ref.removeprefix("models:/").split("@")[0].split("/")[0]

"""A project with its lake, engine and tracking server, each opened when it is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from shoal.errors import ProjectError, nearest
from shoal.project import Project, find_project
from shoal.workspace.observe import observed

if TYPE_CHECKING:
    from shoal.engines import Engine
    from shoal.lake import Lake
    from shoal.models import ModelDeclaration
    from shoal.pipeline import FoundModel, Graph
    from shoal.tracking import Tracker
    from shoal.training import Nursery
    from shoal.workspace.audit import Audit

__all__ = ["Event", "Opened"]

Event = Callable[[str, str, Any], None]


def _silent(stage: str, name: str, value: Any) -> None:
    """The default for events: nobody listens."""


class Opened:
    """A project and what it is made of; close it, or use it as a context manager.

    Args:
        project: The project.
        on_event: Called with ``(stage, name, value)`` while work goes on: ``("table", name,
            "start" | TableReport)``, ``("train", name, (done, total) | ModelReport)``, ``("score",
            name, rows | ScoreReport)``, ``("round", "", number)`` before each of a continuous run.
            It may be called from several threads.
    """

    def __init__(self, project: Project, *, on_event: Event = _silent) -> None:
        self.project = project
        self._open = contextlib.ExitStack()
        self.on_event = observed(self, on_event)

    @classmethod
    def open(
        cls,
        folder: str | Path | None = None,
        *,
        profile: str | None = None,
        on_event: Event = _silent,
    ) -> Self:
        """Finds the project of a folder (the current one by default), searching upward.

        Raises:
            ProjectError: There is none, or its settings are wrong.
        """
        start = None if folder is None else Path(folder)
        return cls(find_project(start, profile=profile), on_event=on_event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def on_close(self, function: Callable[[], object]) -> None:
        """Has a function called when the workspace is closed."""
        self._open.callback(function)

    def close(self) -> None:
        """Ends the engine's session and the workers, if any were started."""
        self._open.close()

    @cached_property
    def lake(self) -> Lake:
        """The project's tables."""
        from shoal.lake import Lake

        spec = self.project.spec
        lake = Lake(
            self.project.storage,
            spec.schema,
            catalog=spec.catalog,
            folder=self.project.root,
            here=self.project.here,
        )
        lake.store.check()  # one request, before anything is planned or written
        return lake

    @cached_property
    def engine(self) -> Engine:
        """The project's engine; started at the first use."""
        from shoal.engines import connect

        engine = self._open.enter_context(connect(self.project.profile.engine))
        if not engine.embedded:
            engine.check_folder(self.project.storage)
        for key, value in self.project.spec.configuration.items():
            engine.spark.conf.set(key, value)
        return engine

    @cached_property
    def tracker(self) -> Tracker:
        """The project's MLflow."""
        from shoal.tracking import Tracker

        if not self.project.profile.tracking or self.lake.store.local:
            self.project.here.mkdir(parents=True, exist_ok=True)
        return Tracker(self.project.tracking, self.project.artifacts, self.project.name)

    @cached_property
    def audit(self) -> Audit:
        """Who moved which alias, and why."""
        from shoal.workspace.audit import Audit

        return Audit(self.lake, self.tracker)

    @cached_property
    def nursery(self) -> Nursery:
        """Starts the processes that fit; one for all trainings of this workspace."""
        from shoal.training import new_nursery

        return self._open.enter_context(new_nursery())

    @cached_property
    def graph(self) -> Graph:
        """The declared tables, analysed.

        Raises:
            PipelineError: A declaration is wrong.
            ProjectError: A source file raises.
        """
        from shoal.pipeline import analyse, finding_models, load_sources

        with finding_models(self._found):
            registry = load_sources(
                self.project.transformations(),
                spark=self.engine.spark,
                lake=self.lake,
                root=self.project.root,
                configuration=self.project.spec.configuration,
                engine=self.engine,
            )
            return analyse(registry, lake=self.lake, root=self.project.root, engine=self.engine)

    def _found(self, uri: str) -> FoundModel:
        from shoal.pipeline import FoundModel

        version = self.tracker.resolve(uri)
        folder = str(self.tracker.fleet_folder(version))
        return FoundModel(name=version.name, version=version.version, folder=folder)

    @cached_property
    def models(self) -> dict[str, ModelDeclaration]:
        """The declared models by name.

        Raises:
            ProjectError: A file raises, or two models have one name.
        """
        from shoal.models import collecting_models
        from shoal.pipeline import project_folder, run_source

        with collecting_models() as found, project_folder(self.project.root):
            for file in self.project.models():
                run_source(file)
        models: dict[str, ModelDeclaration] = {}
        for declaration in found:
            other = models.setdefault(declaration.name, declaration)
            if other is not declaration:
                raise ProjectError(
                    f"Two models are named '{declaration.name}': {other.location} and "
                    f"{declaration.location}.",
                    hint="Give one another name: @shoal.model(name=...)",
                )
        return models

    def declared(self, names: Sequence[str]) -> list[ModelDeclaration]:
        """Declarations by name; all when no name is given.

        Raises:
            ProjectError: The project declares no such model; the message has the nearest.
        """
        if not names:
            return list(self.models.values())
        for name in names:
            if name not in self.models:
                close = nearest(name, self.models)
                known = ", ".join(sorted(self.models)) or "none"
                raise ProjectError(
                    f"The project declares no model '{name}'; it declares {known}.",
                    hint=f"Did you mean '{close}'?" if close else "Declare it in models/*.py.",
                )
        return [self.models[name] for name in names]

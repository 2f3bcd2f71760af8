"""Everything that is decided before the first fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from shoal.errors import TrainingError, nearest
from shoal.models import ModelDeclaration
from shoal.models.columns import accepts_nan, by_position
from shoal.models.metrics import metric_names, metric_task
from shoal.training.clusters import cluster_keys
from shoal.training.job import FitJob
from shoal.training.members import Group
from shoal.training.source import Segments, Source, Target, check_target, find_segments
from shoal.training.task import Job, Task
from shoal.training.tuned import Choices, TunedJob, placed, with_params
from shoal.training.weights import takes_weights

__all__ = ["Plan"]

_MEASURED = {
    "regression": ("mae", "rmse", "r2", "bias"),
    "classification": ("accuracy", "f1", "log_loss"),
}


class Plan:
    """What to fit, on what, and how.

    Args:
        declaration: The model's declaration.
        source: The table it learns from.
        target: What is known of the target; read from the table by default.
        segments: The segments; read from the table by default.

    Attributes:
        task: ``regression`` or ``classification``.
        target: What is known of the target column.
        segments: The segments in the order of the sorted rows.
        job: What all segments share.
        choices: The parameters of segments that a search found for each.
        shared: The job that is done for each segment: ``job``, with those parameters.

    Raises:
        ModelError: The declaration's function is wrong.
        TrainingError: The data cannot train it.
    """

    def __init__(
        self,
        declaration: ModelDeclaration,
        source: Source,
        *,
        target: Target | None = None,
        segments: Segments | None = None,
    ) -> None:
        from sklearn.base import is_classifier

        plain = replace(declaration, tuned={}, search=None)
        self.declaration = declaration
        self.source = source
        estimator = declaration.build()
        classifier = bool(is_classifier(estimator))
        self.task = "classification" if classifier else "regression"
        self.target: Target = target or check_target(declaration, source, classifier=classifier)
        if declaration.weight and not takes_weights(estimator):
            raise TrainingError(
                f"Model {declaration.name!r} ({declaration.location}): weight="
                f"{declaration.weight!r}, but the fit of {_last(estimator)} takes no "
                "sample_weight.",
                hint="leave weight out, or choose an estimator that takes weights, such as Ridge",
            )
        classes = len(self.target.classes or ())
        for metric in (declaration.metric, *declaration.metrics):
            self._check_metric(metric, classes)
        if declaration.interval is not None and classifier:
            raise TrainingError(
                f"Model {declaration.name!r} ({declaration.location}): interval= is for numbers; "
                "the estimator predicts classes.",
                hint="leave interval out; probabilities tell how sure a classifier is",
            )
        names = [f.name for f in source.features]
        named = by_position(estimator, names)
        baseline: str | int = declaration.baseline
        if declaration.baseline.startswith("seasonal_naive:"):
            baseline = names.index(declaration.baseline.partition(":")[2])
        declared = (declaration.metric, *declaration.metrics)
        metrics = dict.fromkeys((*declared, *_MEASURED[self.task]))
        self.segments: Segments = segments or find_segments(declaration, source)
        self.job = FitJob(
            build=partial(placed, plain, names) if named else plain.build,
            features=len(names),
            classes=classes,
            timed=declaration.time is not None,
            weighted=declaration.weight is not None,
            nan_ok=accepts_nan(estimator),
            metrics=tuple(metrics),
            metric=declaration.metric,
            baseline=baseline,
            holdout=declaration.holdout,
            min_rows=declaration.min_rows,
            centre=self.target.mean,
            seed=declaration.seed,
            timeout=declaration.timeout,
            batched=declaration.batched,
            backtest=declaration.backtest,
            interval=declaration.interval,
            trust_pickle=declaration.trust_pickle,
        )
        self.choices = Choices(declaration, cluster_keys(declaration, source, self.segments))
        self.shared: Job = self.job
        if declaration.tuned:
            jobs = (with_params(self.job, declaration, names, p) for p in self.choices.params)
            self.shared = TunedJob(jobs=tuple(jobs), choices=self.choices)

    def chosen(self, task: Task, of: Iterable[int] | Group) -> Task:
        """The task with the parameters that its segments, or its group, have of their own.

        Args:
            task: Segments or one group.
            of: The positions of its segments, or the group.
        """
        if not isinstance(self.shared, TunedJob):
            return task
        texts = self.segments.texts
        if isinstance(of, Group):
            return self.shared.chosen(task, [self._text(of)])
        return self.shared.chosen(task, [texts[i] for i in of])

    def job_of(self, group: Group) -> FitJob:
        """The job of a group, with its own parameters."""
        if not isinstance(self.shared, TunedJob):
            return self.job
        return self.shared.jobs[self.choices.of(self._text(group))]

    def _text(self, group: Group) -> tuple[str | None, ...]:
        return self.segments.texts[group.first][: len(self.declaration.by) - group.level]

    def _check_metric(self, metric: str, classes: int) -> None:
        where = f"Model {self.declaration.name!r}"
        if metric_task(metric) != self.task:
            fitting = metric_names(self.task)
            near = nearest(metric, fitting) or fitting[0]
            raise TrainingError(
                f"{where}: metric {metric!r} measures {metric_task(metric)}, but the estimator "
                f"does {self.task}; expected one of {', '.join(fitting)}.",
                hint=f'@shoal.model(..., metric="{near}")',
            )
        if metric == "roc_auc" and classes != 2:
            raise TrainingError(
                f"{where}: roc_auc needs two classes; target {self.declaration.target!r} has "
                f"{classes}.",
                hint='use metric="accuracy", "f1" or "log_loss"',
            )


def _last(estimator: object) -> str:
    while steps := getattr(estimator, "steps", None):
        estimator = steps[-1][1]
    return type(estimator).__name__

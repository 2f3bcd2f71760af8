"""The end of the chain: a member that predicts as the declared baseline does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from shoal.models.codecs import Encoder
from shoal.training.members import BASELINE, Group
from shoal.training.plan import Plan

__all__ = ["baseline_member"]


def baseline_member(plan: Plan) -> tuple[Group, pa.Table]:
    """The member for segments that neither they, their groups nor the global model can predict.

    It is the seasonal feature when the declaration names one; otherwise the mean of all targets,
    or the frequencies of all classes.
    """
    levels = len(plan.declaration.by)
    group = Group(level=levels + 1, first=0, end=len(plan.segments.texts), key=BASELINE)
    estimator, what = _estimator(plan)
    encoded = Encoder().encode(estimator)
    row = {
        "status": pa.array(["ok"]),
        "reason": pa.array([what]),
        "error": pa.nulls(1, pa.string()),
        "rows_train": pa.nulls(1, pa.int64()),
        "rows_holdout": pa.nulls(1, pa.int64()),
        "rows_dropped": pa.nulls(1, pa.int64()),
        "rows_hash": pa.nulls(1, pa.string()),
        "fit_seconds": pa.nulls(1, pa.float64()),
        "core_seconds": pa.nulls(1, pa.float64()),
        "template": pa.array([encoded.template]).dictionary_encode(),
        "state": pa.array([encoded.state], pa.large_binary()),
    }
    return group, pa.table(row)


def _estimator(plan: Plan) -> tuple[Any, str]:
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.linear_model import LinearRegression

    job = plan.job
    if isinstance(job.baseline, int):
        seasonal = LinearRegression().fit(np.eye(job.features), np.eye(job.features)[job.baseline])
        seasonal.coef_ = np.eye(job.features)[job.baseline]
        seasonal.intercept_ = 0.0
        return seasonal, f"the feature {plan.source.features[job.baseline].name}"
    if not job.classes:
        one = np.zeros((1, job.features))
        return DummyRegressor().fit(one, [plan.target.mean]), "the mean of all targets"
    counts = class_counts(plan)
    rows = np.zeros((job.classes, job.features))
    prior = DummyClassifier(strategy="prior")
    prior.fit(rows, np.arange(job.classes), sample_weight=counts)
    return prior, "the frequencies of all classes"


def class_counts(plan: Plan) -> np.ndarray[Any, Any]:
    """Rows of each class, in the order of the class codes."""
    import polars as pl

    target = plan.declaration.target
    found = plan.source.scan().group_by(target).agg(rows=pl.len()).collect()
    rows = dict(found.iter_rows())
    return np.array([rows.get(label, 0) for label in plan.target.classes or ()], dtype=float)

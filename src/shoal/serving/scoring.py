"""A request's rows to predictions, whichever protocol brought them."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from shoal.errors import RequestError, ShoalError
from shoal.serving.traffic import Traffic

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.serving.models import ServedModels
    from shoal.serving.served import ServedModel

__all__ = ["Asked", "Prediction", "Scored", "predict", "score"]

_log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """What a request asks.

    Attributes:
        rows: The rows, as a version takes them.
        interval: Prediction intervals too.
    """

    rows: pa.Table
    interval: bool = False


Read: TypeAlias = Callable[["ServedModel"], Asked]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What one version predicted.

    Args:
        model: The version.
        role: ``champion``, ``canary`` or ``shadow``.
        rows: What it was asked.
        at: Which rows of the request these are; None means all, in order.
        answers: ``prediction`` and who predicted: see `shoal.models.Fleet.predict`.
    """

    model: ServedModel
    role: str
    rows: pa.Table
    answers: pa.Table
    at: pa.Array | None = None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One request and what it got.

    Args:
        request: Its id.
        received: When it came, in seconds since 1970.
        seconds: How long it took to predict.
        parts: What each version predicted of it.
    """

    request: str
    received: float
    seconds: float
    parts: tuple[Prediction, ...]

    @property
    def model(self) -> ServedModel:
        """The version that answers for the request."""
        return self.parts[0].model

    @property
    def answers(self) -> pa.Table:
        """One row for each row of the request, in order."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if len(self.parts) == 1:
            return self.parts[0].answers
        together = pa.concat_tables([part.answers for part in self.parts])
        at = pa.concat_arrays([part.at for part in self.parts])
        return together.take(pc.sort_indices(at))


def score(
    models: ServedModels,
    model: ServedModel,
    read: Read,
    *,
    free: bool,
    explain: bool,
    request: str | None = None,
) -> Scored:
    """Predicts one request.

    Args:
        models: Where a canary is found.
        model: The version that the request's path names.
        read: Gives what the request asks, as a version takes it.
        free: The path named no alias or version, so a canary may answer.
        explain: Also tell who predicted each row.
        request: The request's id; None makes one.

    Raises:
        RequestError: The request is wrong.
        ModelError: An artifact is broken.
    """
    received, begun = time.time(), time.perf_counter()
    ident = request or str(uuid.uuid4())
    rows, interval = read(model)
    ask = partial(predict, explain=explain, interval=interval)
    rule = Traffic.from_tags(models.tags(model.name)) if free else None
    other = None if rule is None or rule.shadow else models.get(model.name, alias=rule.alias)
    if rule is None or other is None or other.version == model.version:
        parts: tuple[Prediction, ...] = (ask(model, "champion", rows),)
    elif rule.segments:
        parts = _by_segment(model, other, rule, rows, read, ask)
    else:
        theirs = _their_rows(other, model, rows, read) if rule.takes(ident) else None
        given = (model, "champion", rows) if theirs is None else (other, "canary", theirs)
        parts = (ask(*given),)
    return Scored(
        request=ident, received=received, seconds=time.perf_counter() - begun, parts=parts
    )


def _their_rows(
    other: ServedModel, model: ServedModel, rows: pa.Table, read: Read
) -> pa.Table | None:
    """The rows as another version takes them; None where the request lacks what it needs."""
    if other.inputs == model.inputs:
        return rows
    try:
        return read(other).rows
    except RequestError as error:  # the usual version can answer, so the request is not wrong
        _log.warning("%s/%s could not take a request: %s", other.name, other.version, error.message)
        return None


def _by_segment(
    model: ServedModel,
    other: ServedModel,
    rule: Traffic,
    rows: pa.Table,
    read: Read,
    ask: Callable[..., Prediction],
) -> tuple[Prediction, ...]:
    """Rows of the rule's segments to the other version, the rest to the usual one."""
    import numpy as np
    import pyarrow as pa

    from shoal.models.segments import segment_codes, segment_key

    codes, keys = segment_codes(rows, model.fleet.header.by)
    taken = np.array([segment_key(key) in rule.segments for key in keys], dtype=bool)[codes]
    theirs = _their_rows(other, model, rows, read) if taken.any() else None
    if theirs is None:
        return (ask(model, "champion", rows),)
    if taken.all():
        return (ask(other, "canary", theirs),)
    ours, at = pa.array(np.flatnonzero(~taken)), pa.array(np.flatnonzero(taken))
    return (
        ask(model, "champion", rows.take(ours), at=ours),
        ask(other, "canary", theirs.take(at), at=at),
    )


def predict(
    model: ServedModel,
    role: str,
    rows: pa.Table,
    *,
    explain: bool,
    interval: bool = False,
    at: pa.Array | None = None,
) -> Prediction:
    """Predicts rows with one version.

    Raises:
        RequestError: The model cannot take these values.
        ModelError: The artifact is broken.
    """
    try:
        answers = model.fleet.predict(rows, explain=explain, interval=interval)
    except ShoalError:  # the request's fault, or that of a broken artifact: then 500
        raise
    except Exception as error:  # an estimator may refuse values in any way; MLflow answers 400
        _log.debug("%s/%s could not predict", model.name, model.version, exc_info=True)
        raise RequestError(
            f"The model cannot predict these values: {type(error).__name__}: {error}"
        ) from error
    return Prediction(model=model, role=role, rows=rows, answers=answers, at=at)

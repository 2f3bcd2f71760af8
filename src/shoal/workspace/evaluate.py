"""Two versions of a model on the same rows, segment by segment."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.errors import ModelError, RequestError, TableError, TrackingError
from shoal.models.code import own_digests
from shoal.workspace.evaluation_rows import ChosenRows, choose_rows
from shoal.workspace.evaluations import Evaluation, keep

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from shoal.lake import Lake
    from shoal.models import Fleet, ModelDeclaration
    from shoal.workspace.opened import Opened

__all__ = ["evaluate"]

_BATCH = 500_000

# What is measured where predictions alone do not tell the declared metric.
_INSTEAD = {"mase": "mae", "log_loss": "accuracy", "roc_auc": "accuracy"}


def evaluate(
    space: Opened,
    model: str,
    *,
    challenger: str = "challenger",
    champion: str = "champion",
    rows: str | None = None,
    since: str | None = None,
    alpha: float = 0.05,
    test: str = "t",
) -> Evaluation:
    """Compares two versions of a model on the same rows of one table version.

    Each segment's rows are tested in pairs, with control of the false discoveries among all
    segments. The result goes to ``shoal.evaluations_<model>``, one row per segment.

    Args:
        space: The workspace.
        model: The model's name.
        challenger: An alias or a version.
        champion: An alias or a version.
        rows: All rows of this table, such as ``gold.test@4``. Without ``rows`` and ``since``: those
            that the model's table got after both trainings, else the last of each segment.
        since: Only rows of this time or later.
        alpha: Share of false discoveries among the segments that are won or lost, at most.
        test: ``t`` or ``wilcoxon``; see `shoal.models.paired`.

    Raises:
        ProjectError: The project declares no such model.
        TrackingError: There is no such version, both are the same, or one is no fleet.
        TableError: There is no such table or version, or its files are gone.
        ModelError: There is no row to compare, or a column is missing.
    """
    begun = time.perf_counter()
    if not 0 < alpha < 1:
        raise ModelError(f"alpha is {alpha}; expected 0 < alpha < 1, such as 0.05.")
    (declaration,) = space.declared([model])
    versions = {
        "challenger": space.tracker.resolve(_reference(model, challenger)),
        "champion": space.tracker.resolve(_reference(model, champion)),
    }
    numbers = {name: version.version for name, version in versions.items()}
    if numbers["challenger"] == numbers["champion"]:
        raise TrackingError(
            f"Challenger and champion of '{model}' are the same version, {numbers['champion']}.",
            hint=f"Train another: shoal train {model} --alias challenger",
        )
    trust, known = declaration.trust_pickle, own_digests(declaration.function)
    fleets = {
        name: space.tracker.fleet(f"{model}/{number}", trust_pickle=trust, known_code=known)
        for name, number in numbers.items()
    }
    chosen = choose_rows(declaration, space.lake, versions, rows=rows, since=since)
    scored = _score(declaration, chosen, fleets, lambda n: space.on_event("score", model, n))
    metric = _INSTEAD.get(declaration.metric, declaration.metric)
    result = Evaluation(
        id=uuid.uuid4().hex[:12],
        model=model,
        challenger=numbers["challenger"],
        champion=numbers["champion"],
        table=chosen.table.name,
        table_version=chosen.version,
        which=chosen.which,
        seen=chosen.seen,
        metric=metric,
        test=test,
        alpha=alpha,
        rows=len(scored.truth),
        skipped=scored.skipped,
        at=dt.datetime.now(dt.UTC),
    )
    return _compared(result, scored, space.lake, begun)


def _reference(model: str, text: str) -> str:
    return f"{model}/{text}" if text.isdigit() else f"{model}@{text}"


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """Rows that both predicted, one segment after the other."""

    keys: list[str]
    starts: np.ndarray[Any, Any]
    truth: np.ndarray[Any, Any]
    guesses: Mapping[str, np.ndarray[Any, Any]]
    classes: int
    skipped: int


def _score(
    declaration: ModelDeclaration, chosen: ChosenRows, fleets: Mapping[str, Fleet], progress: Any
) -> _Scored:
    import numpy as np

    from shoal.models.segments import segment_codes, segment_key

    by = list(declaration.by)
    features = [f.name for fleet in fleets.values() for f in fleet.header.features]
    needed = list(dict.fromkeys([*by, declaration.target, *features]))
    for fleet in fleets.values():
        needed += [name for name in fleet.header.by if name not in needed]
    have = chosen.frame.collect_schema().names()
    if missing := [name for name in needed if name not in have]:
        raise ModelError(
            f"{chosen.table.name} version {chosen.version} has no column '{missing[0]}', which the "
            f"versions of '{declaration.name}' need; it has {', '.join(have)}."
        )
    header = next(iter(fleets.values())).header
    labels = {_text(label): i for i, label in enumerate(header.classes or ())}
    known: dict[str, int] = {}
    parts: list[tuple[Any, ...]] = []
    skipped = total = 0
    for batch in _batches(chosen, needed):
        codes, keys = segment_codes(batch, by)
        numbers = np.array([known.setdefault(segment_key(k), len(known)) for k in keys])
        truth = _numbers(batch.column(declaration.target), labels)
        try:
            found = {n: _numbers(f.predict(batch).column(0), labels) for n, f in fleets.items()}
        except RequestError as error:
            raise ModelError(
                f"{chosen.table.name} version {chosen.version}: {error.message}"
            ) from error
        good = np.isfinite(truth) & np.isfinite(found["challenger"])
        good &= np.isfinite(found["champion"])
        skipped += int((~good).sum())
        total += batch.num_rows
        progress(total)
        parts.append(
            (numbers[codes][good], truth[good], found["challenger"][good], found["champion"][good])
        )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    if not parts or not len(columns[0]):
        raise ModelError(
            f"No row to compare: {chosen.table.name} version {chosen.version} ({chosen.which}) has "
            f"{total:,} rows, and of none both predictions and the target are known.",
            hint="Choose others: --rows TABLE@VERSION or --since TIME",
        )
    order = np.argsort(columns[0], kind="stable")
    segment, truth, challenger, champion = (column[order] for column in columns)
    starts = np.flatnonzero(np.r_[True, segment[1:] != segment[:-1]])
    names = list(known)
    return _Scored(
        keys=[names[i] for i in segment[starts].tolist()],
        starts=starts,
        truth=truth,
        guesses={"challenger": challenger, "champion": champion},
        classes=len(labels),
        skipped=skipped,
    )


def _batches(chosen: ChosenRows, columns: list[str]) -> Iterator[pa.Table]:
    try:
        parts = chosen.frame.select(columns).collect_batches(chunk_size=_BATCH, maintain_order=True)
        for part in parts:
            if part.height:
                yield part.to_arrow()
    except FileNotFoundError as error:
        raise TableError(
            f"Files of {chosen.table.name} version {chosen.version} were deleted.",
            hint=f"shoal history {chosen.table.name}",
        ) from error


def _numbers(column: Any, labels: Mapping[str, int]) -> np.ndarray[Any, Any]:
    """Values as numbers, NaN where there is none; classes as their codes."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if labels:
        coded = pc.dictionary_encode(column.combine_chunks())
        texts = [None if v is None else _text(v) for v in coded.dictionary.to_pylist()]
        # A class that no training has seen is a wrong answer of both.
        codes = np.array([np.nan if t is None else labels.get(t, -1.0) for t in texts])
        at = np.asarray(coded.indices.fill_null(len(codes)))
        return np.asarray(np.append(codes, np.nan)[at])
    return np.asarray(pc.fill_null(column.cast(pa.float64()), np.nan), dtype=np.float64)


def _text(label: object) -> str:
    """One text per label: training takes whole floats for integers."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _compared(result: Evaluation, scored: _Scored, lake: Lake, begun: float) -> Evaluation:
    from dataclasses import replace

    import numpy as np

    from shoal.models.metrics import Held, metric_sums, metric_values
    from shoal.models.paired import paired

    centre = 0.0 if scored.classes else float(scored.truth.mean())
    held = {
        name: Held(
            truth=scored.truth,
            guess=guess,
            scores=None,
            starts=scored.starts,
            classes=scored.classes,
            centre=centre,
        )
        for name, guess in scored.guesses.items()
    }
    sums = {name: metric_sums(result.metric, each) for name, each in held.items()}
    values = {name: metric_values(result.metric, each) for name, each in sums.items()}
    whole = {
        name: float(metric_values(result.metric, each.sum(axis=0, keepdims=True))[0])
        for name, each in sums.items()
    }
    losses = {name: _losses(result.metric, each) for name, each in held.items()}
    found = paired(
        losses["champion"],
        losses["challenger"],
        scored.starts,
        alpha=result.alpha,
        test=result.test,
    )
    words, counts = np.unique(found.verdict, return_counts=True)
    tally = dict.fromkeys(("won", "lost", "tied"), 0)
    tally |= dict(zip(words.tolist(), counts.tolist(), strict=True))
    result = replace(
        result,
        values={name: None if np.isnan(value) else value for name, value in whole.items()},
        p=None if np.isnan(found.pooled_p) else found.pooled_p,
        verdict=found.pooled_verdict,
        segments=tally,
    )
    columns = {
        "segment": [*scored.keys, None],
        "n": np.append(np.diff(np.append(scored.starts, result.rows)), result.rows),
        **{f"{name}_value": np.append(values[name], whole[name]) for name in values},
        "gain": np.append(found.gain, found.pooled_gain),
        "p": np.append(found.p, found.pooled_p),
        "q": np.append(found.q, np.nan),
        "verdict": [*found.verdict.tolist(), found.pooled_verdict],
    }
    keep(result, columns, lake)
    return replace(result, seconds=time.perf_counter() - begun)


def _losses(metric: str, held: Any) -> np.ndarray[Any, Any]:
    """A loss per row, whose mean the metric follows."""
    from dataclasses import replace

    import numpy as np

    from shoal.models.metrics import metric_sums

    if held.classes:
        return np.asarray(held.truth != held.guess, dtype=np.float64)
    error = held.guess - held.truth
    if metric in {"rmse", "r2"}:
        return np.asarray(error * error)
    if metric in {"mae", "wape", "bias"}:
        return np.asarray(np.abs(error))
    each = metric_sums(metric, replace(held, starts=np.arange(len(error))))
    return np.asarray(each[:, 0])

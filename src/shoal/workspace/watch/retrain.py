"""Closing the loop: exactly the segments whose alarm is open are trained again, and promoted.

A version whose gate was closed when it was trained stays the challenger. The next window has rows
that neither it nor the champion saw: they are compared on these, and the gate is asked again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.errors import GateClosed, ModelError
from shoal.workspace.watch.rows import members
from shoal.workspace.watch.store import drift_table, last_window

if TYPE_CHECKING:
    from shoal.workspace.learning import Learning
    from shoal.workspace.report import ModelReport

__all__ = ["drifted", "retrain_drifted", "settle"]


def drifted(space: Learning, model: str) -> list[str]:
    """Keys of the segments with an open alarm whose newest member has not seen the window yet.

    Raises:
        ModelError: The model was never watched.
    """
    import polars as pl

    from shoal.workspace.training import last_training

    last = last_window(space.lake, model)
    if last is None:
        raise ModelError(f"'{model}' was never watched.", hint=f"shoal monitor {model}")
    newest = last_training(space, model)
    alarmed = {segment for (_, segment, _), (_, alarm) in last.states.items() if alarm}
    if newest is None or not alarmed:
        return sorted(alarmed)
    rows = drift_table(space.lake, model).scan().filter(pl.col("alarm")).sort("window")
    seen_in = rows.group_by("segment").agg(pl.col("window").last()).collect()
    windows = dict(seen_in.iter_rows())
    ends = _ends(space, model)
    found = members(space.lake, newest).filter(pl.col("level") == 0)
    learned = dict(
        zip(found["segment"].to_list(), found["trained_on_version"].to_list(), strict=True)
    )
    return sorted(
        segment
        for segment in alarmed
        if segment in learned and learned[segment] < ends.get(windows.get(segment, -1), 2**62)
    )


def _ends(space: Learning, model: str) -> dict[int, int]:
    """The version that the model's table had when each window ended."""
    import json

    import polars as pl

    rows = drift_table(space.lake, model).scan().filter(pl.col("check") == "window")
    return {
        window: said.get("truth_version", said["table_version"])
        for window, said in (
            (window, json.loads(details))
            for window, details in rows.select("window", "details").collect().iter_rows()
        )
    }


def settle(space: Learning, model: str) -> str:
    """Compares a waiting challenger on rows that neither version saw, and promotes it by its gate.

    Args:
        space: The workspace.
        model: The model's name; of one without a gate no challenger waits.

    Returns:
        What was done, for a person; empty when there is no challenger, or no such row yet.
    """
    from shoal.workspace.evaluate import evaluate
    from shoal.workspace.evaluation_rows import choose_rows
    from shoal.workspace.promotion import CHAMPION, promote

    (declaration,) = space.declared([model])
    (pointers,) = space.tracker.pointers(model)
    waits, holds = (pointers.aliases.get(name) for name in ("challenger", CHAMPION))
    if declaration.promote_if is None or waits is None or holds is None or waits <= holds:
        return ""
    versions = {
        name: space.tracker.resolve(f"{model}/{number}")
        for name, number in (("challenger", waits), ("champion", holds))
    }
    if choose_rows(declaration, space.lake, versions).seen != "neither":
        return ""
    evaluate(space, model, challenger=str(waits), champion=str(holds))
    try:
        done = promote(space, model, waits, why="better on rows that neither had seen")
    except (GateClosed, ModelError) as error:
        return f"version {waits} stays the challenger: {error.message}"
    return f"version {waits} promoted: {'; '.join(done.gate)}"


def retrain_drifted(space: Learning, model: str, *, promote: bool = False) -> ModelReport | None:
    """Fits the drifted segments again; the others are carried over.

    Args:
        space: The workspace.
        model: The model's name.
        promote: Make the version the champion, if its gate lets it.

    Returns:
        What was trained; None when no alarm is open.

    Raises:
        ModelError: The model was never watched, or has no segments.
    """
    (declaration,) = space.declared([model])
    segments = drifted(space, model)
    if not segments:
        return None
    if not declaration.by:
        (report,) = space.train([model], promote=promote)
    else:
        (report,) = space.train([model], segments=segments, promote=promote)
    return report

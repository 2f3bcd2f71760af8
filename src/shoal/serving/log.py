"""The inference log: what was asked and answered, as rows of a Delta table.

Rows leave the request's path at once and are committed in batches, one Delta transaction each,
numbered, so that a batch whose commit was not seen to succeed is never written twice. Each row
also carries ``(request_id, row, model_version, role)``, which names it however often a client
sends the same request.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from typing import TYPE_CHECKING, Literal, Self

from shoal.errors import Conflict, ShoalError
from shoal.serving.answers import Refused

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.lake import Lake
    from shoal.serving.scoring import Prediction, Scored

__all__ = ["InferenceLog"]

_log = logging.getLogger(__name__)
_ATTEMPTS = 5


class InferenceLog:
    """Writes predictions to ``shoal.inferences_<model>``. Use it as a context manager.

    A row is in the table after at most ``seconds`` and a commit; leaving the context writes what
    is left. A process that is killed loses what came in that time, and nothing else.

    Args:
        lake: Where the tables are.
        seconds: Longest pause between two commits.
        rows: A commit is made sooner when so many rows wait.
        room: At most so many rows wait.
        full: What happens when there is no room: ``refuse`` answers 503 before anything is
            predicted, so that each answer is in the log; ``drop`` answers, and counts the rows
            that the log lost.
    """

    def __init__(
        self,
        lake: Lake,
        *,
        seconds: float = 2.0,
        rows: int = 100_000,
        room: int = 1_000_000,
        full: Literal["refuse", "drop"] = "refuse",
    ) -> None:
        self._lake = lake
        self._seconds = seconds
        self._rows = rows
        self._room = room
        self._full = full
        self._queue: deque[tuple[Scored, Prediction]] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="shoal-log", daemon=True)
        self._application = f"shoal-log-{uuid.uuid4().hex}"
        self._numbers: dict[str, int] = {}
        self.waiting = 0
        self.dropped = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join()

    def admit(self) -> None:
        """Asked before a request is predicted.

        Raises:
            Refused: 503: the log has no room, and the server was told to refuse then.
        """
        if self._full == "refuse" and self.waiting >= self._room:
            raise Refused(
                503,
                f"{self.waiting} predictions wait for the inference log, and there is no room for "
                "more. Try again.",
                {"retry-after": "2"},
            )

    def add(self, scored: Scored) -> None:
        """Takes a request's predictions, made with ``explain``."""
        rows = sum(part.rows.num_rows for part in scored.parts)
        with self._lock:
            if self._full == "drop" and self.waiting + rows > self._room:
                self.dropped += rows
                return
            self._queue.extend((scored, part) for part in scored.parts)
            self.waiting += rows
        if self.waiting >= self._rows:
            self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait(self._seconds)
            self._wake.clear()
            closing = self._closing
            self._flush()
            if closing:
                return

    def _flush(self) -> None:
        with self._lock:
            taken, self._queue = self._queue, deque()
        by_model: dict[str, list[tuple[Scored, Prediction]]] = {}
        for scored, part in taken:
            by_model.setdefault(part.model.name, []).append((scored, part))
        for name, parts in by_model.items():
            rows = sum(part.rows.num_rows for _, part in parts)
            try:
                self._commit(name, _table(parts))
            except ShoalError as error:
                if self._closing:
                    self.dropped += rows
                    _log.error("%d predictions of '%s' are lost: %s", rows, name, error)
                else:  # the next flush tries again, with what came meanwhile
                    _log.error("The inference log of '%s' waits: %s", name, error)
                    with self._lock:
                        self._queue.extendleft(reversed(parts))
                    continue
            with self._lock:
                self.waiting -= rows

    def _commit(self, name: str, rows: pa.Table) -> None:
        table = self._lake.table(f"shoal.inferences_{name}")
        number = self._numbers.get(name, 0) + 1
        for attempt in range(_ATTEMPTS):
            try:
                table.append(rows, app=(self._application, number))
                break
            except Conflict:
                if table.transaction(self._application) == number:
                    break  # it was this very batch that succeeded
                if attempt == _ATTEMPTS - 1:
                    raise
        self._numbers[name] = number


def _table(parts: list[tuple[Scored, Prediction]]) -> pa.Table:
    """One row for each prediction; the inputs are a struct, as the model took them."""
    import pyarrow as pa

    tables = []
    for scored, part in parts:
        count = part.rows.num_rows
        inputs = part.rows.combine_chunks()
        at = part.at if part.at is not None else pa.array(range(count), pa.int64())
        moment = pa.scalar(int(scored.received * 1e6), pa.timestamp("us", "UTC"))
        columns = {
            "request_id": pa.repeat(pa.scalar(scored.request, pa.string()), count),
            "row": at.cast(pa.int64()),
            "received_at": pa.repeat(moment, count),
            "seconds": pa.repeat(pa.scalar(scored.seconds, pa.float64()), count),
            "model_version": pa.repeat(pa.scalar(part.model.version, pa.int64()), count),
            "role": pa.repeat(pa.scalar(part.role, pa.string()), count),
            "segment": part.answers.column("segment"),
            "model_used": part.answers.column("model_used"),
            "prediction": part.answers.column("prediction"),
            "inputs": pa.StructArray.from_arrays(
                [column.combine_chunks() for column in inputs.columns],
                fields=[pa.field(f.name, f.type) for f in inputs.schema],
            )
            if count
            else pa.array([], pa.struct(list(inputs.schema))),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables, promote_options="permissive")

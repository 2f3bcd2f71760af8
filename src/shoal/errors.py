"""Errors meant for the person who meets them.

Every message says what was found and what was expected; ``hint`` says what to do next, with the
exact command where there is one. The class says who can mend it:

    ShoalError
    ├── ProjectError            settings or source files are wrong
    ├── PipelineError           a declared table, view or flow is wrong or failed
    │   └── ExpectationFailed   rows broke an ``expect_or_fail``
    ├── TableError              a Delta table cannot be used as asked
    │   └── TableNotFound
    ├── EngineError             the query engine cannot start or refused a plan
    ├── ModelError              a model's declaration, state or artifact is wrong
    ├── TrainingError           a training could not be done
    ├── TrackingError           the tracking server or registry refused
    │   └── GateClosed          a version does not meet what it was declared to meet
    ├── DeployError             a bundle is wrong, or a target refused it
    ├── RequestError            a request to a served model is wrong
    └── RetryableError          try again: nothing was lost
        ├── Conflict            another writer or run was faster
        └── Unavailable         a server or store did not answer
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "Conflict",
    "DeployError",
    "EngineError",
    "ExpectationFailed",
    "GateClosed",
    "ModelError",
    "PipelineError",
    "ProjectError",
    "RequestError",
    "RetryableError",
    "ShoalError",
    "TableError",
    "TableNotFound",
    "TrackingError",
    "TrainingError",
    "Unavailable",
    "nearest",
]


class ShoalError(Exception):
    """Root of all errors that Shoal raises on purpose.

    Args:
        message: What was found and what was expected, in one or two sentences.
        hint: What to do next, with the exact command where there is one.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}" if self.hint else self.message


class ProjectError(ShoalError):
    """A settings file or a source file of the project is wrong."""

    exit_code = 2


class PipelineError(ShoalError):
    """A declared table, view or flow is wrong, or its refresh failed."""


class ExpectationFailed(PipelineError):
    """Rows broke an expectation that was declared to fail the update.

    Args:
        message: What was found.
        hint: What to do next.
        counts: The counts of all the table's expectations.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, counts: tuple[object, ...] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.counts = counts


class TableError(ShoalError):
    """A Delta table cannot be used as asked."""


class TableNotFound(TableError):
    """No Delta table has that name."""


class EngineError(ShoalError):
    """The query engine cannot start, or refused a plan."""


class ModelError(ShoalError):
    """A model's declaration, fitted state or artifact is wrong."""


class TrainingError(ShoalError):
    """A training could not be done."""


class TrackingError(ShoalError):
    """The tracking server or the model registry refused."""


class GateClosed(TrackingError):
    """The declared gate did not let a version become the champion; nothing was changed."""


class DeployError(ShoalError):
    """A bundle, a rehearsal or a deployment is wrong, or its target refused it."""


class RequestError(ShoalError):
    """A request to a model is wrong; ``message`` names the row, the column and what was found."""


class RetryableError(ShoalError):
    """Something that may work when tried again; nothing was lost."""

    exit_code = 75


class Conflict(RetryableError):
    """Another writer or run was faster."""


class Unavailable(RetryableError):
    """A server or a store did not answer."""


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like ``word``, or None when none is close.

    Args:
        word: What was found.
        candidates: What would have been valid.
    """
    found = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return found[0] if found else None

"""A version that is served, and what it must be able to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from shoal.models import FleetHeader

__all__ = ["Predictor", "ServedModel"]


class Predictor(Protocol):
    """What predicts: a fleet, or a single model that behaves like a fleet of one."""

    @property
    def header(self) -> FleetHeader:
        """What is predicted, and from which columns."""
        ...

    @property
    def segments(self) -> int:
        """How many members it has."""
        ...

    def predict(self, rows: pa.Table, *, explain: bool = False, interval: bool = False) -> pa.Table:
        """One row for each row; see `shoal.models.Fleet.predict`."""
        ...

    def predict_few(
        self, keys: Sequence[tuple[str | None, ...]], features: Sequence[Sequence[float | None]]
    ) -> list[float | None] | None:
        """A few rows without tables; None where only `predict` can do it."""
        ...

    def predict_columns(
        self, keys: Sequence[tuple[str | None, ...]], columns: Sequence[Sequence[float | None]]
    ) -> np.ndarray[Any, Any] | None:
        """Many rows without tables; None where only `predict` can do it."""
        ...


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One version of a model, opened.

    Args:
        name: Registered model.
        version: Version number.
        fleet: What predicts.
        inputs: Input columns in order, each with its MLflow type name.
    """

    name: str
    version: int
    fleet: Predictor
    inputs: Mapping[str, str]

"""Waves of the time: seasons as features, for any regression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

__all__ = ["Fourier"]

Array = np.ndarray[Any, Any]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_TEXT = re.compile(r"(\d+(?:\.\d+)?)?\s*([smhdw])")


class Fourier(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Put sines and cosines of a time column in its place.

    For a season with the period P, the k-th pair of waves is sin(2 pi k t / P), cos(2 pi k t / P).
    All other columns are kept, in their order, before the waves. Nothing is learned, so rows are
    treated alike in training and scoring, and many segments at once.

    Args:
        column: The time column: its name among the model's features, or its position. As the
            first step of a pipeline, since later steps see no names.
        period: The season's length in the unit of the times, or text such as ``"1d"``, ``"12h"``,
            ``"1w"`` (s, m, h, d, w) where that unit is the second. Several for several seasons.
        order: How many pairs of waves; one number for all seasons, or one for each.
        keep: Keep the time column too, in its place.
    """

    def __init__(
        self,
        column: str | int = 0,
        *,
        period: float | str | Sequence[float | str] = "1d",
        order: int | Sequence[int] = 2,
        keep: bool = False,
    ) -> None:
        self.column = column
        self.period = period
        self.order = order
        self.keep = keep

    def fit(self, X: Any, y: Any = None) -> Fourier:  # noqa: ARG002, N803
        """Check the settings.

        Raises:
            ValueError: A setting is wrong, or there is no such column.
        """
        features = np.shape(X)[1]
        self._seasons()
        if isinstance(self.column, str):
            raise ValueError(  # noqa: TRY004 (a column that is not there, however it is written)
                f"Fourier: column {self.column!r} is a name, but the rows are an array; make "
                "Fourier the first step, or give the column's position"
            )
        if not -features <= self.column < features:
            raise ValueError(f"Fourier: column {self.column} of {features} columns is not there")
        self.n_features_in_ = features
        return self

    def transform(self, X: Any) -> Array:  # noqa: N803
        """The other columns, then the waves.

        Args:
            X: Shape (rows, features).

        Returns:
            Float64, shape (rows, features - 1 + 2 * sum of orders), one more with ``keep``.
        """
        rows = np.asarray(X, dtype=np.float64)
        at = int(self.column) % rows.shape[1]
        kept = rows if self.keep else np.delete(rows, at, axis=1)
        seasons = self._seasons()
        waves = sum(order for _, order in seasons)
        found = np.empty((len(rows), kept.shape[1] + 2 * waves))
        found[:, : kept.shape[1]] = kept
        to = kept.shape[1]
        for period, order in seasons:
            # The remainder is exact, and keeps the digits of times far from 0.
            turn = np.remainder(rows[:, at], period) * (2 * np.pi / period)
            for k in range(1, order + 1):
                np.sin(k * turn, out=found[:, to])
                np.cos(k * turn, out=found[:, to + 1])
                to += 2
        return found

    def _seasons(self) -> list[tuple[float, int]]:
        period: Any = self.period
        order: Any = self.order
        periods = [period] if isinstance(period, str | int | float) else list(period)
        orders = [order] * len(periods) if isinstance(order, int | np.integer) else list(order)
        if len(orders) != len(periods):
            raise ValueError(f"Fourier: {len(periods)} periods, but {len(orders)} orders")
        if any(isinstance(o, bool) or int(o) != o or o < 1 for o in orders):
            raise ValueError(f"Fourier: order is {order!r}; expected whole numbers above 0")
        return [(_seconds(p), int(o)) for p, o in zip(periods, orders, strict=True)]


def _seconds(period: float | str) -> float:
    if isinstance(period, str):
        found = _TEXT.fullmatch(period.strip())
        if found is None or not float(found[1] or 1):
            raise ValueError(
                f"Fourier: period is {period!r}; expected a number of seconds, or such as '1d', "
                "'12h', '30m', '1w'"
            )
        return float(found[1] or 1) * _UNITS[found[2]]
    if not period > 0:
        raise ValueError(f"Fourier: period is {period!r}; expected more than 0")
    return float(period)

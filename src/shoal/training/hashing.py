"""Numbers that tell rows apart: for segments that changed, and for an order of their own.

A row's mark depends on its values alone. So what is decided by marks, the order of rows of one
moment and the sample of a large group, is the same wherever and in whatever order the rows lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["own_order", "row_marks", "segment_hashes"]

Array = np.ndarray[Any, Any]

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)

# So many rows stay in the processor's cache while their columns are mixed.
_BLOCK = 16_384


def row_marks(columns: Sequence[Array], seed: int = 0) -> Array:
    """64 bits for each row, made of its values by multiplying and shifting.

    Args:
        columns: Float64 or int64, each of shape (rows,).
        seed: Other seeds give unrelated marks.

    Returns:
        Uint64, shape (rows,).
    """
    marks = np.empty(len(columns[0]), dtype=np.uint64)
    for start in range(0, len(marks), _BLOCK):
        total = np.full(len(marks[start : start + _BLOCK]), _odd(seed), dtype=np.uint64)
        for i, column in enumerate(columns):
            bits = np.array(column[start : start + _BLOCK]).view(np.uint64)
            # The high bits of a float tell more than the low ones, and products only move up.
            bits ^= bits >> _HALF
            bits *= _odd(i + 1)
            total += bits
        marks[start : start + _BLOCK] = _mixed(_mixed(total))
    return marks


def segment_hashes(marks: Array, offsets: Array) -> list[str]:
    """A hash of each segment's rows, whatever their order.

    Two sums of 64 bits over a segment's rows: the additive multiset hash of Bellare and Micciancio
    (1997), with a mixing function that finds accidents, not attacks.

    Args:
        marks: Of all rows; see `row_marks`.
        offsets: Int64, shape (segments + 1,): segment i is rows offsets[i] to offsets[i + 1].

    Returns:
        32 hexadecimal digits for each segment.
    """
    some = np.flatnonzero(np.diff(offsets))
    sums = np.zeros((len(offsets) - 1, 2), dtype=np.uint64)
    if len(some):  # reduceat takes a segment without rows for the next one's first row
        sums[some, 0] = np.add.reduceat(marks, offsets[some])
        sums[some, 1] = np.add.reduceat(_mixed(marks + _odd(0)), offsets[some])
    text = sums.astype(">u8").tobytes().hex()
    return [text[i : i + 32] for i in range(0, len(text), 32)]


def own_order(moments: Array | None, marks: Array, offsets: Array) -> Array | None:
    """The rows' own order in each segment: by moment, and rows of one moment by their marks.

    Args:
        moments: Sorted in each segment; None puts a segment's rows in the order of their marks.
        marks: Of all rows.
        offsets: Int64, shape (segments + 1,).

    Returns:
        The row at each place, shape (rows,); None when the rows are in their order already.
    """
    starts = np.zeros(len(marks), dtype=bool)
    starts[offsets[:-1][offsets[:-1] < len(marks)]] = True
    if moments is not None and len(marks):
        starts[1:] |= moments[1:] != moments[:-1]
    # Only rows that share their moment with a neighbour may have to move.
    tied = ~starts
    tied[:-1] |= tied[1:]
    at = np.flatnonzero(tied)
    if not len(at):
        return None
    order = np.arange(len(marks))
    order[at] = at[np.lexsort((marks[at], np.cumsum(starts)[at]))]
    return order


def _odd(number: int) -> np.uint64:
    """A multiplier for a column: splitmix64 (Steele et al., 2014) of its number, made odd.

    Multipliers must be unrelated: with multiples of one number, rows of small whole numbers
    collide wherever their weighted sums are equal.
    """
    bits = (number + 1) * _GOLDEN % 2**64
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
    return np.uint64(bits ^ bits >> 31 | 1)


def _mixed(bits: Array) -> Array:
    bits = bits ^ (bits >> _HALF)
    bits *= _MIX
    bits ^= bits >> _HALF
    return bits

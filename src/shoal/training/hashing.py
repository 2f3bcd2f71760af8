"""Whether a segment's rows are those that its member was fitted on, as one short text."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["row_hashes"]

Array = np.ndarray[Any, Any]

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)

# So many rows stay in the processor's cache while their columns are mixed.
_BLOCK = 16_384


def row_hashes(features: Array, target: Array, moments: Array | None, offsets: Array) -> list[str]:
    """A hash of each segment's rows, whatever their order.

    Each row becomes two numbers of 64 bits by multiplying and shifting; their sums over a segment
    are its hash: the additive multiset hash of Bellare and Micciancio (1997), with a mixing
    function that finds accidents, not attacks.

    Args:
        features: Float64, shape (rows, features).
        target: Float64, shape (rows,).
        moments: Int64, shape (rows,), or None.
        offsets: Int64, shape (segments + 1,): segment i is rows offsets[i] to offsets[i + 1].

    Returns:
        32 hexadecimal digits for each segment.
    """
    columns = [*features.T, target, *([] if moments is None else [moments])]
    mixed = np.zeros((len(target), 2), dtype=np.uint64)
    for start in range(0, len(target), _BLOCK):
        rows = mixed[start : start + _BLOCK]
        total = np.zeros(len(rows), dtype=np.uint64)
        for i, column in enumerate(columns):
            bits = _mixed(np.array(column[start : start + _BLOCK]).view(np.uint64))
            bits *= np.uint64((2 * i + 1) * _GOLDEN % 2**64 | 1)
            total += bits
        rows[:, 0] = _mixed(total)
        rows[:, 1] = _mixed(total + np.uint64(_GOLDEN))
    # A sum of no rows must not be that of the next segment's first row, as reduceat has it.
    some = np.flatnonzero(np.diff(offsets))
    sums = np.zeros((len(offsets) - 1, 2), dtype=np.uint64)
    if len(some):
        sums[some] = np.add.reduceat(mixed, offsets[some], axis=0)
    text = sums.astype(">u8").tobytes().hex()
    return [text[i : i + 32] for i in range(0, len(text), 32)]


def _mixed(bits: Array) -> Array:
    bits ^= bits >> _HALF
    bits *= _MIX
    bits ^= bits >> _HALF
    return bits

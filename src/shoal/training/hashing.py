"""Whether a segment's rows are those that its member was fitted on, as one short text."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

__all__ = ["row_hashes"]

Array = np.ndarray[Any, Any]

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


def row_hashes(features: Array, target: Array, moments: Array | None, offsets: Array) -> list[str]:
    """A hash of each segment's rows, whatever their order.

    Each row becomes 64 bits by multiplying and shifting; SHA-256 of a segment's sorted numbers,
    shortened to 128 bits, is its hash.

    Args:
        features: Float64, shape (rows, features).
        target: Float64, shape (rows,).
        moments: Int64, shape (rows,), or None.
        offsets: Int64, shape (segments + 1,): segment i is rows offsets[i] to offsets[i + 1].

    Returns:
        32 hexadecimal digits for each segment.
    """
    columns = [*features.T, target, *([] if moments is None else [moments])]
    mixed = np.zeros(len(target), dtype=np.uint64)
    for i, column in enumerate(columns):
        bits = np.array(column).view(np.uint64)
        bits ^= bits >> _HALF
        bits *= _MIX
        bits ^= bits >> _HALF
        bits *= np.uint64((2 * i + 1) * _GOLDEN % 2**64 | 1)
        mixed += bits
    found = []
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        part = np.sort(mixed[start:end])
        found.append(hashlib.sha256(part.data).hexdigest()[:32])
    return found

"""States of many members of one template, as slices of one buffer."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["fill_states"]

Array = np.ndarray[Any, Any]
Owner = int | None


def fill_states(
    template: str,
    state: bytes,
    attributes: Mapping[tuple[Owner, str], Array],
    fixed: Collection[Owner],
) -> Array | None:
    """The states of members that differ from an encoded one in the given attributes.

    Args:
        template: The template of the encoded member.
        state: Its state.
        attributes: Fitted attributes by the position of their step in the pipeline (None without
            one) and name; the first axis is the member.
        fixed: Positions of the steps that are fitted equally in all members.

    Returns:
        Bytes, shape (members, len(state)); None when the template holds state that is not given,
        or of another shape.
    """
    root = json.loads(template)["root"]
    count = len(next(iter(attributes.values())))
    states = np.empty((count, len(state)), dtype=np.uint8)
    states[:] = np.frombuffer(state, dtype=np.uint8)
    for owner, name, dtype, shape, start in _pieces(root, state):
        values = attributes.get((owner, name))
        if values is None:
            if owner in fixed or name == "n_features_in_":
                continue
            return None
        if values.shape[1:] != shape:
            return None
        stored = np.ascontiguousarray(values, dtype=dtype).reshape(count, -1).view(np.uint8)
        states[:, start : start + stored.shape[1]] = stored
    return states


def _pieces(
    root: list[Any], state: bytes
) -> Iterator[tuple[Owner, str, str, tuple[int, ...], int]]:
    at = 0
    for owner, name, node in _leaves(root, None, ""):
        tag = node[0]
        if tag == "number":
            dtype = {"int": "<i8", "float": "<f8"}.get(node[1], node[1])
            yield owner, name, dtype, (), at
            at += np.dtype(dtype).itemsize
        elif tag == "array":
            shape = struct.unpack_from(f"<{node[2]}I", state, at)
            at += 4 * node[2]
            yield owner, name, node[1], shape, at
            at += math.prod(shape) * np.dtype(node[1]).itemsize
        elif tag in ("native", "skops"):
            yield owner, "", "", (), at  # state that nobody can give


def _leaves(node: list[Any], owner: Owner, name: str) -> Iterator[tuple[Owner, str, list[Any]]]:
    tag = node[0]
    if tag == "object":
        for attribute, child in node[2].items():
            if attribute == "steps" and node[1] == "sklearn.pipeline.Pipeline":
                for at, step in enumerate(child[1]):
                    yield from _leaves(step, at, "")
            else:
                yield from _leaves(child, owner, attribute)
    elif tag in ("list", "tuple"):
        for child in node[1]:
            yield from _leaves(child, owner, name)
    elif tag == "dict":
        for _, child in node[1]:
            yield from _leaves(child, owner, name)
    else:
        yield owner, name, node

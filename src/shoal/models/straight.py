"""A stored member's line, read without building the member or importing scikit-learn.

A template names the classes of its members. Where all of them are ones that `affine` knows, a
stand-in of the same name with the same attributes tells it everything: nothing is imported, and
nothing of a class's code runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shoal.models.affine import Affine, affine, is_known
from shoal.models.codecs import Decoder

__all__ = ["Straight"]

_PLAIN = {"array", "const", "dict", "dtype", "float", "list", "number", "object", "tuple", "type"}


class Straight:
    """Reads the lines of the members that share one template.

    Args:
        template: The template.
        features: How many features the members take.
    """

    def __init__(self, template: str, features: int) -> None:
        self._features = features
        self._decoder = _StandIns(template)

    @classmethod
    def of(cls, template: str, features: int) -> Straight | None:
        """A reader, where the template holds nothing but what may be a line."""
        if template.startswith('{"codec":1,"root":["pickle"'):
            return None
        made = cls(template, features)
        nodes = list(_nodes(made._decoder.root))
        plain = all(node[0] in _PLAIN for node in nodes)
        known = all(is_known(node[1]) for node in nodes if node[0] == "object")
        return made if plain and known else None

    def line(self, state: bytes | memoryview) -> Affine | None:
        """A member's line, the one that `affine` finds in the member itself.

        Args:
            state: The member's state.

        Raises:
            ModelError: The state is damaged.
        """
        try:
            return affine(self._decoder.decode(state), self._features)
        except (AttributeError, TypeError, ValueError):  # it lacks what its class would have
            return None


class _StandIns(Decoder):
    """Decodes into objects of empty classes."""

    @property
    def root(self) -> list[Any]:
        return self._root

    def _class(self, path: str) -> type[Any]:
        found = self._classes.get(path)
        if found is None:
            module, _, name = path.rpartition(".")
            found = self._classes[path] = type(name, (), {"__module__": module})
        return found


def _nodes(node: list[Any]) -> Iterator[list[Any]]:
    """All nodes of a template's tree, whose inner nodes hold others in lists and objects."""
    yield node
    if node[0] in ("list", "tuple"):
        children = node[1]
    elif node[0] == "dict":
        children = [child for _, child in node[1]]
    elif node[0] == "object":
        children = list(node[2].values())
    else:
        return
    for child in children:
        yield from _nodes(child)

"""Plain requests for members that are lines: a body's bytes to the answer's, without tables.

Plain is a body of one of MLflow's shapes, with nothing else in it, whose values have the types of
the model's signature. Whatever is not plain, wrong requests among them, is left to the usual way,
and what is answered here has the bits of the usual way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal.serving.served import Predictor, ServedModel

__all__ = ["MOST_ROWS", "PlainReader"]

MOST_ROWS = 2_000
_FEW = 16  # up to here Python's own arithmetic is faster than numpy's

Column = Sequence[Any]

# What a JSON value of each column may be; None is a missing number.
_KINDS: Mapping[str, frozenset[type]] = {
    "string": frozenset({str}),
    "double": frozenset({float, int, type(None)}),
    "long": frozenset({int}),
    "boolean": frozenset({bool}),
}
_LONG = 2**63


class PlainReader:
    """Reads and predicts plain requests of one version."""

    def __init__(self, model: ServedModel) -> None:
        header = model.fleet.header
        self.name = f"{model.name}/{model.version}".encode()
        self._fleet: Predictor = model.fleet
        self._by = list(header.by)
        self._features = [f.name for f in header.features]
        self._kinds = {name: model.inputs[name] for name in [*self._by, *self._features]}
        self._answered = self._refused = 0

    @classmethod
    def of(cls, model: ServedModel) -> PlainReader | None:
        """A reader, where the version's columns are of the plain kinds."""
        header, inputs = model.fleet.header, model.inputs
        names = [*header.by, *(f.name for f in header.features)]
        if not names or len(set(names)) < len(names):
            return None
        if not (model.name.isascii() and model.name.isprintable()):
            return None
        if header.classes is not None or any(inputs.get(name) != "string" for name in header.by):
            return None
        kinds = [inputs.get(f.name) for f in header.features]
        return cls(model) if all(k in _KINDS and k != "string" for k in kinds) else None

    def answer(self, body: bytes | bytearray) -> tuple[bytes, int] | None:
        """The answer's bytes, and how many rows it has; None for the usual way."""
        import orjson

        if self._refused > 10 + self._answered:
            return None  # its members are no lines: trying would only take time
        try:
            columns = self._columns(orjson.loads(body))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None
        if columns is None or not self._are_plain(columns):
            return None
        try:
            found = self._predict(columns)
        except OverflowError:  # a whole number that no float is near
            return None
        if found is None:
            self._refused += 1
            return None
        self._answered += 1
        content = orjson.dumps({"predictions": found}, option=orjson.OPT_SERIALIZE_NUMPY)
        return content, len(columns[0])

    def _are_plain(self, columns: list[Column]) -> bool:
        if not 0 < len(columns[0]) <= MOST_ROWS:
            return False
        for column, kind in zip(columns, self._kinds.values(), strict=True):
            if not _KINDS[kind].issuperset(map(type, column)):
                return False
            if kind == "long" and not (min(column) >= -_LONG and max(column) < _LONG):
                return False
        return True

    def _predict(self, columns: list[Column]) -> Any:
        rows, width = len(columns[0]), len(self._by)
        keys = list(zip(*columns[:width], strict=True)) if width else [()] * rows
        if rows > _FEW:
            return self._fleet.predict_columns(keys, columns[width:])
        values = list(zip(*columns[width:], strict=True)) or [()] * rows
        return self._fleet.predict_few(keys, values)

    def _columns(self, request: Any) -> list[Column] | None:
        """The columns, in the order of ``_kinds``; raises or gives None for what is not plain."""
        ((shape, data),) = request.items()
        names = self._kinds
        if shape == "dataframe_split":
            if len(data) != 2:
                return None
            columns, rows = data["columns"], data["data"]
            at = {name: i for i, name in enumerate(columns)}
            if len(at) != len(columns) or set(map(type, rows)) != {list}:
                return None
            turned = list(zip(*rows, strict=True))
            if len(turned) != len(at):
                return None
            return [turned[at[name]] for name in names]
        if shape not in ("dataframe_records", "instances", "inputs"):
            return None
        if type(data) is list:
            return [[row[name] for row in data] for name in names]
        if shape == "dataframe_records" or type(data) is not dict:
            return None
        found = [data[name] for name in names]
        plain = set(map(type, found)) == {list} and len(set(map(len, found))) == 1
        return found if plain else None

"""A fleet opened for prediction: every row goes to its segment's model."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shoal.errors import ModelError, RequestError
from shoal.models.affine import Affine, Lines
from shoal.models.artifact import MEMBER_SCHEMA, FleetHeader, member_rows, read_header
from shoal.models.cache import DecodedCache
from shoal.models.code import RecordedCode, read_code
from shoal.models.codecs import Decoder
from shoal.models.columns import accepts_nan, feature_columns, numbers
from shoal.models.segments import segment_codes, segment_key
from shoal.models.straight import Straight

__all__ = ["Fleet"]


class Fleet:
    """Many models, one per segment, from an artifact folder. Safe to use from many threads.

    Attributes:
        header: What all members share.
    """

    header: FleetHeader

    def __init__(
        self,
        header: FleetHeader,
        members: pa.Table,
        *,
        memory: int,
        modules: Collection[str],
        trust_pickle: bool,
        code: RecordedCode | None = None,
    ) -> None:
        self.header = header
        self._members = members
        self._rows = {key: i for i, key in enumerate(members.column("segment").to_pylist())}
        self._decoders = {
            name: Decoder(template, modules, trust_pickle=trust_pickle, code=code)
            for name, template in header.templates.items()
        }
        self._straight = {
            name: Straight.of(template, len(header.features))
            for name, template in header.templates.items()
        }
        self._lines = Lines(members.num_rows, len(header.features))
        # Lines that would take more than half of the budget are decoded members like others.
        self._keeps_lines = 2 * self._lines.size <= memory
        self._cache: DecodedCache[tuple[Any, bool]] = DecodedCache(
            memory - self._lines.size if self._keeps_lines else memory
        )
        used = pc.index_in(members.column("model_used"), members.column("segment"))
        has_state = numbers(members.column("state").is_valid()).astype(bool)
        # The member that predicts for each member; -1 where none does.
        self._used = numbers(used, missing=-1).astype(np.int64)
        self._used[(self._used >= 0) & ~has_state[self._used]] = -1
        self._stand_ins: dict[int, tuple[Any, bool]] = {}
        self._chosen: dict[tuple[str | None, ...], int] = {}
        self._widths = numbers(members.column("interval"), missing=math.nan)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        memory: int = 256 * 2**20,
        modules: Collection[str] = (),
        trust_pickle: bool = False,
        known_code: Mapping[str, str] | None = None,
    ) -> Fleet:
        """Open an artifact folder; members stay in the memory-mapped file until they are used.

        Args:
            folder: The folder that `write_fleet` wrote.
            memory: About how many bytes decoded members may take; those not used for longest
                are decoded again when they are needed.
            modules: Modules besides scikit-learn, XGBoost and LightGBM whose estimator classes
                may be built, besides those that the environment variable
                ``SHOAL_TRUSTED_MODULES`` names, separated by commas (for stock MLflow, which
                has no way to say it).
            trust_pickle: Unpickle members that were pickled, which runs whatever code they hold;
                the environment variable ``SHOAL_TRUST_PICKLE=1`` says so for stock MLflow.
            known_code: SHA-256 by name of modules that the caller runs anyway: an artifact whose
                own code is exactly of these needs no further trust.

        Raises:
            ModelError: The folder is no fleet artifact, its members are pickled and not trusted,
                or it needs a class that is not allowed.
        """
        folder = Path(folder)
        header = read_header(folder)
        path = folder / "members.arrow"
        try:
            members = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            members = member_rows(members)
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
        environment = os.environ.get("SHOAL_TRUSTED_MODULES", "").split(",")
        trusted = {*modules, *(name.strip() for name in environment)} - {""}
        code = read_code(folder, header.code) if header.code else None
        if header.code and all((known_code or {}).get(n) == d for n, d in header.code.items()):
            trusted |= set(header.code)
        unpickle = trust_pickle or os.environ.get("SHOAL_TRUST_PICKLE") == "1"
        return cls(
            header, members, memory=memory, modules=trusted, trust_pickle=unpickle, code=code
        )

    def _repr_html_(self) -> str:
        from shoal.html import card, grid

        names = ["segment", "status", "model_used", "reason"]
        level = np.asarray(self._members.column("level"))
        statuses = self._members.column("status").filter(pa.array(level == 0))
        counts = {one["values"]: one["counts"] for one in pc.value_counts(statuses).to_pylist()}
        header = self.header
        facts = {
            "segments": self.segments,
            **{str(status): count for status, count in sorted(counts.items())},
            "by": ", ".join(header.by),
            "predicts": header.target,
            "learned from": f"{header.table}@{header.table_version}",
        }
        rows = self._members.select(names).slice(0, 10).to_pylist()
        title = f"{header.model}, fleet version {header.fleet_version}"
        return card(title, facts, grid(names, [list(row.values()) for row in rows]))

    @property
    def segments(self) -> int:
        """How many segments the fleet was trained on; fallback groups are not counted."""
        return int(np.count_nonzero(numbers(self._members.column("level")) == 0))

    def member(self, segment: str) -> dict[str, Any]:
        """One member's row without its state.

        Args:
            segment: The segment's key, such as ``["UA","IAH"]``.

        Raises:
            ModelError: The fleet has no such member.
        """
        row = self._rows.get(segment)
        if row is None:
            raise ModelError(f"Model {self.header.model!r} has no member {segment}.")
        names = [n for n in MEMBER_SCHEMA.names if n != "state"]
        found: dict[str, Any] = self._members.select(names).slice(row, 1).to_pylist()[0]
        return found

    def estimator(self, segment: str) -> Any:
        """The fitted estimator that predicts for a segment, following its fallback.

        Args:
            segment: The segment's key; an unseen one goes up to its group or the global model.

        Raises:
            ModelError: No fitted member predicts for it.
        """
        row = self._predictor(tuple(json.loads(segment)))
        if row < 0:
            raise ModelError(f"Model {self.header.model!r} has no fitted member for {segment}.")
        return self._estimator(row)[0]

    def predict(self, rows: pa.Table, *, explain: bool = False, interval: bool = False) -> pa.Table:
        """Predict each row with its segment's model.

        Unseen segments go up to their group's model and then to the global one. A row that its
        model cannot take (a missing value where the estimator accepts none, an infinite one)
        gets a null prediction.

        Args:
            rows: The ``by`` and feature columns, in any order; others are ignored.
            explain: Also tell which member predicted.
            interval: Also give the prediction interval.

        Returns:
            One row per input row, in order: ``prediction`` (float64, or the classes' type), with
            ``interval`` also ``prediction_lower`` and ``prediction_upper`` (float64, null where
            the member had too few held-out rows), and with ``explain`` also ``segment``,
            ``model_used`` and ``fallback``.

        Raises:
            RequestError: A column is missing or has values of the wrong type, or the model was
                trained without intervals.
        """
        header = self.header
        if interval and header.interval is None:
            raise RequestError(
                f"model {header.model!r} has no prediction intervals; they are declared before "
                "training: @shoal.model(..., interval=0.9)."
            )
        missing = [n for n in header.by if n not in rows.column_names]
        if missing:
            raise RequestError(
                f"column {missing[0]!r} is missing; model {header.model!r} finds a row's segment "
                f"by {', '.join(header.by)}; found the columns {', '.join(rows.column_names)}."
            )
        features = feature_columns(rows, [f.name for f in header.features], header.model)
        codes, keys = segment_codes(rows, header.by)
        chosen = np.array([self._predictor(k) for k in keys], dtype=np.int64)
        predictions = self._predict(features, chosen, codes)
        columns = {"prediction": self._labels(predictions)}
        if interval:
            width = np.append(self._widths, np.nan)[chosen][codes]
            for name, bound in (("lower", predictions - width), ("upper", predictions + width)):
                columns[f"prediction_{name}"] = pa.array(bound, mask=np.isnan(bound))
        if explain:
            # take, not one Python string per row.
            names = [segment_key(k) for k in keys]
            picked = pa.array(chosen, mask=chosen < 0)
            models = self._members.column("segment").take(picked).combine_chunks()
            at = pa.array(codes)
            columns["segment"] = pa.array(names, pa.string()).take(at)
            columns["model_used"] = models.take(at)
            other = [n != m for n, m in zip(names, models.to_pylist(), strict=True)]
            columns["fallback"] = pa.array(other, pa.bool_()).take(at)
        return pa.table(columns)

    def predict_few(
        self, keys: Sequence[tuple[str | None, ...]], features: Sequence[Sequence[float | None]]
    ) -> list[float | None] | None:
        """Predict a few rows without a table, to the bits that `predict` gives.

        Args:
            keys: Key texts of each row's segment.
            features: Values of each row; None for a missing one.

        Returns:
            A prediction for each row, None where there is none; or None for all when one of
            their members is no line, and only `predict` can do it.
        """
        chosen = [self._predictor(key) for key in keys]
        if not all(self._lines.is_line(row) for row in chosen):
            # Those seen for the first time are decoded.
            line = self._are_lines(np.array(chosen, dtype=np.int64))
            if not line.all():
                return None
        return [self._lines.predict_one(*row) for row in zip(features, chosen, strict=True)]

    def predict_columns(
        self, keys: Sequence[tuple[str | None, ...]], columns: Sequence[Sequence[float | None]]
    ) -> np.ndarray[Any, Any] | None:
        """Predict rows without a table, to the bits that `predict` gives.

        Args:
            keys: Key texts of each row's segment.
            columns: Values of each feature; None for a missing one.

        Returns:
            A prediction for each row, float64, NaN where there is none; or None for all when one
            of their members is no line, and only `predict` can do it.

        Raises:
            OverflowError: A whole number is larger than any float.
        """
        known = list(map(self._chosen.get, keys))
        if None in known:
            known = [self._predictor(key) for key in keys]
        chosen = np.array(known, dtype=np.int64)
        if not self._are_lines(chosen).all():
            return None
        return self._lines.predict([np.array(c, dtype=np.float64) for c in columns], chosen)

    def _predictor(self, key: tuple[str | None, ...]) -> int:
        found = self._chosen.get(key)
        if found is None:
            rows = (self._rows.get(segment_key(key[:n])) for n in range(len(key), -1, -1))
            used = (int(self._used[row]) for row in rows if row is not None)
            found = next((row for row in used if row >= 0), -1)
            if len(self._chosen) > 2 * len(self._rows) + 1_000:
                self._chosen = {}  # unseen keys without end must not fill the memory
            self._chosen[key] = found
        return found

    def stand_in(self, segment: str, estimator: Any, *, gaps: bool) -> None:
        """Lets another estimator predict in the place of a segment's own.

        Args:
            segment: The segment's key.
            estimator: Something with ``predict``, which is taken to give the same.
            gaps: It takes missing values.
        """
        self._stand_ins[self._predictor(tuple(json.loads(segment)))] = estimator, gaps

    def _estimator(self, row: int) -> tuple[Any, bool]:
        found = self._stand_ins.get(row) or self._cache.get(row)
        if found is None:
            estimator = self._decode(row)
            found = estimator, accepts_nan(estimator)
            self._cache.keep(row, found, len(self._state(row)))
        return found

    def _decode(self, row: int) -> Any:
        template = self._members.column("template")[row].as_py()
        decoder = self._decoders.get(template)
        if decoder is None:
            raise ModelError(f"fleet.json lacks the template {template!r} that a member names.")
        return decoder.decode(self._state(row))

    def _state(self, row: int) -> memoryview:
        return memoryview(self._members.column("state")[row].as_buffer())

    def _line(self, row: int) -> Affine | None:
        """The line that a member is, or None; a member that may be one need not be built."""
        straight = self._straight.get(self._members.column("template")[row].as_py())
        return None if straight is None else straight.line(self._state(row))

    def _predict(
        self,
        features: list[np.ndarray[Any, Any]],
        chosen: np.ndarray[Any, Any],
        codes: np.ndarray[Any, Any],
    ) -> np.ndarray[Any, Any]:
        """Predict: the lines all at once, the others by one call per member."""
        line = self._are_lines(chosen)
        if line.all():
            return self._lines.predict(features, chosen[codes])
        predictions = np.full(len(codes), np.nan)
        straight = line[codes]
        if line.any():
            at = np.flatnonzero(straight)
            columns = [column[at] for column in features]
            predictions[at] = self._lines.predict(columns, chosen[codes[at]])
        rest = np.flatnonzero(~straight & (chosen[codes] >= 0))
        self._by_member(features, chosen[codes], rest, predictions)
        return predictions

    def _are_lines(self, chosen: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Which members are lines; those seen for the first time are decoded."""
        line = (chosen >= 0) & (self.header.classes is None and self._keeps_lines)
        if line.all() and (self._lines.kinds(chosen) == 1).all():
            return line
        new = np.unique(chosen[line])
        for row in new[self._lines.kinds(new) == 0].tolist():
            self._lines.add(row, self._line(row))
        line[line] = self._lines.kinds(chosen[line]) == 1
        return line

    def _by_member(
        self,
        features: list[np.ndarray[Any, Any]],
        member: np.ndarray[Any, Any],
        rows: np.ndarray[Any, Any],
        predictions: np.ndarray[Any, Any],
    ) -> None:
        if not len(rows):
            return
        # Sorted once, so that each member's rows are one slice of the matrix.
        rows = rows[np.argsort(member[rows], kind="stable")]
        matrix = np.empty((len(rows), len(features)))
        for i, column in enumerate(features):
            np.take(column, rows, out=matrix[:, i])
        finite = np.asarray(np.isfinite(matrix).all(axis=1))
        usable = finite if finite.all() else ~np.asarray(np.isinf(matrix).any(axis=1))
        ordered = member[rows]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        # An overflow is no news: estimators check what they get, and say so.
        with np.errstate(over="ignore", invalid="ignore"):
            for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
                estimator, nan_ok = self._estimator(int(ordered[start]))
                part = slice(start, end)
                good = (usable if nan_ok else finite)[part]
                at, taken = rows[part], matrix[part]
                if not good.all():
                    at, taken = at[good], taken[good]
                if len(at):
                    predictions[at] = np.asarray(estimator.predict(taken)).reshape(-1)

    def _labels(self, predictions: np.ndarray[Any, Any]) -> pa.Array:
        missing = np.isnan(predictions)
        if self.header.classes is None:
            return pa.array(predictions, mask=missing)
        codes = pa.array(np.where(missing, 0, predictions).astype(np.int64), mask=missing)
        return pa.array(list(self.header.classes)).take(codes)

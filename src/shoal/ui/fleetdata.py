"""Fleets as pages show them: one row per segment, with the numbers of one version and another."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shoal.models.metrics import metric_error, metric_task
from shoal.ui.routes import Missing

if TYPE_CHECKING:
    import polars as pl

    from shoal.tracking import ModelVersion
    from shoal.ui.desk import Desk

__all__ = ["Filter", "FleetInfo", "Segments", "all_fleets", "fleet_info", "members", "segments"]

_HIDDEN = re.compile(r"state|structure|template|params|rows_hash|fingerprint|pickled|sums_.*")
_COSTS = {
    "rows": "rows",
    "core_seconds": "seconds of a core",
    "data_bytes": "bytes read",
    "state_bytes": "bytes kept",
    "interval": "width of the interval",
}


@dataclass(frozen=True, kw_only=True)
class FleetInfo:
    """A registered model whose members lie in this lake.

    Args:
        name: The model.
        versions: Its versions, newest first.
        aliases: Alias to version.
        tags: The registered model's tags.
        by: The segment columns.
        time: The column that orders rows, if any.
        target: What it predicts.
        metric: The declared metric.
        measures: What can be shown of each segment, and what it is called.
        table: The table that the champion learned from.
    """

    name: str
    versions: tuple[ModelVersion, ...]
    aliases: Mapping[str, int]
    tags: Mapping[str, str]
    by: tuple[str, ...]
    time: str
    target: str
    metric: str
    measures: Mapping[str, str]
    table: str

    def version(self, number: int | None) -> ModelVersion | None:
        """A version by its number."""
        return next((v for v in self.versions if v.version == number), None)

    def fleet_version(self, number: int) -> int:
        """The number that a registered version's members carry in the fleet table.

        Raises:
            Missing: There is no such version, or its members are not in this lake.
        """
        found = self.version(number)
        text = "" if found is None else found.tags.get("shoal.fleet_version", "")
        if not text.isdigit():
            raise Missing(f"Version {number} of '{self.name}' has no members in this lake.")
        return int(text)

    @property
    def champion(self) -> int | None:
        """The champion's version; the newest where there is none."""
        newest = self.versions[0].version if self.versions else None
        return self.aliases.get("champion", newest)

    @property
    def challenger(self) -> int | None:
        """The challenger's version: the alias's, or the newest, if that is not the champion."""
        newest = self.versions[0].version if self.versions else None
        found = self.aliases.get("challenger", newest)
        return None if found == self.champion else found


def all_fleets(desk: Desk) -> list[FleetInfo]:
    """The registered models that have members in this lake, by name."""
    names = {table.name for table in desk.tables()}
    found = sorted(name for name in desk.pointers() if f"shoal.fleet_{name}" in names)
    return [fleet_info(desk, name) for name in found]


def fleet_info(desk: Desk, name: str) -> FleetInfo:
    """One of them.

    Raises:
        Missing: There is no such model, or it has no members in this lake.
    """
    from shoal.errors import nearest

    pointers = desk.pointers().get(name)
    table = desk.find(f"shoal.fleet_{name}")
    if pointers is None or table is None:
        close = nearest(name, desk.pointers())
        raise Missing(
            f"There is no fleet '{name}'.",
            hint=f"Did you mean '{close}'?" if close else "Train one: shoal train",
        )
    versions = tuple(desk.versions(name))
    params, columns = desk.kept(("declared", name), lambda: _declared(table), table.name)
    by = tuple(part.strip() for part in params.get("by", "").split(",") if part.strip())
    metric = params.get("metric", "")
    known = [c for c in columns if metric_task(c) is not None]
    measures = {c: c for c in sorted(known, key=lambda c: (c != metric, c))}
    measures |= {c: f"{c[9:]} of the baseline" for c in columns if c.startswith("baseline_")}
    return FleetInfo(
        name=name,
        versions=versions,
        aliases=pointers.aliases,
        tags=pointers.tags,
        by=by,
        time=params.get("time", ""),
        target=params.get("target", ""),
        metric=metric,
        measures=measures | {c: text for c, text in _COSTS.items() if c in columns},
        table=params.get("table", ""),
    )


def _declared(table: Any) -> tuple[dict[str, str], list[str]]:
    """The newest declared settings, and the table's columns."""
    import polars as pl

    frame = table.scan()
    newest = frame.select(pl.col("fleet_version").max()).collect().item()
    row = frame.filter(pl.col("fleet_version") == newest).select("params").head(1).collect()
    settings: dict[str, str] = json.loads(row.item()) if row.height else {}
    return settings, frame.collect_schema().names()


def members(desk: Desk, name: str, fleet_version: int) -> pl.DataFrame:
    """The segments of one version, by key; fallback groups are left out. Versions never change."""
    import polars as pl

    table = desk.table(f"shoal.fleet_{name}")

    def read() -> pl.DataFrame:
        frame = table.scan()
        shown = [c for c in frame.collect_schema().names() if not _HIDDEN.fullmatch(c)]
        wanted = (pl.col("fleet_version") == fleet_version) & (pl.col("level") == 0)
        return frame.filter(wanted).select(shown).sort("segment").collect()

    return desk.cache.get(("members", table.path, name, fleet_version), table.id(), read)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which segments are asked for; all parts come from an address.

    Args:
        text: In the segment's key.
        keys: Values of key columns.
        status: ``ok``, ``fallback`` or ``failed``.
        verdict: ``won``, ``lost`` or ``tied`` in the last evaluation.
        low: Least value of the measure.
        high: Greatest.
        other_low: Least value in the other version.
        other_high: Greatest.
    """

    text: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    status: str = ""
    verdict: str = ""
    low: float | None = None
    high: float | None = None
    other_low: float | None = None
    other_high: float | None = None

    @property
    def empty(self) -> bool:
        """Whether it lets all pass."""
        return self == Filter()

    @classmethod
    def of(cls, asked: Mapping[str, str], by: tuple[str, ...]) -> Filter:
        """Reads an address's query; what is no number there counts as not given."""

        def bound(name: str) -> float | None:
            try:
                return float(asked[name])
            except (KeyError, ValueError):
                return None

        return cls(
            text=asked.get("q", "").strip(),
            keys={name: asked[f"by.{name}"] for name in by if asked.get(f"by.{name}")},
            status=asked.get("status", ""),
            verdict=asked.get("verdict", ""),
            low=bound("min"),
            high=bound("max"),
            other_low=bound("omin"),
            other_high=bound("omax"),
        )


@dataclass(frozen=True, kw_only=True)
class Segments:
    """A fleet's segments with the numbers of one version and another.

    Args:
        frame: One row per segment: ``row`` (its place), ``segment``, the key columns, ``status``,
            ``uses``, ``reason``, ``rows``, ``value``, ``other``, ``verdict``, ``gain``, ``q``.
        measure: What ``value`` and ``other`` are.
        version: Whose ``value`` it is.
        against: Whose ``other`` it is; None without another.
        evaluation: Id of the evaluation that both come from; empty when each comes from its own
            training.
        worse_is_more: Whether a larger value is worse.
    """

    frame: pl.DataFrame
    measure: str
    version: int
    against: int | None
    evaluation: str
    worse_is_more: bool

    def only(self, wanted: Filter) -> pl.DataFrame:
        """The rows that a filter lets pass."""
        import polars as pl

        tests: list[pl.Expr] = []
        if wanted.text:
            plain = pl.col("segment").str.to_lowercase()
            tests.append(plain.str.contains(wanted.text.lower(), literal=True))
        tests += [pl.col(n).cast(pl.String) == v for n, v in wanted.keys.items()]
        for name, value in (("status", wanted.status), ("verdict", wanted.verdict)):
            if value:
                tests.append(pl.col(name) == value)
        for name, low, high in (
            ("value", wanted.low, wanted.high),
            ("other", wanted.other_low, wanted.other_high),
        ):
            if low is not None:
                tests.append(pl.col(name) >= low - abs(low) * 1e-9)
            if high is not None:
                tests.append(pl.col(name) <= high + abs(high) * 1e-9)
        return self.frame.filter(*tests) if tests else self.frame

    def worst_first(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows with the worst value first; those without a value come last."""
        import polars as pl

        order = pl.col("value")
        if self.measure == "bias":
            order = order.abs()
        return frame.sort(order, descending=self.worse_is_more, nulls_last=True)


def segments(
    desk: Desk, info: FleetInfo, measure: str, version: int, against: int | None
) -> Segments:
    """The segments of a version beside another's.

    Where both were compared on the same rows, by the shown metric, the numbers are that
    evaluation's; else each training measured its own.

    Args:
        desk: The desk.
        info: The fleet.
        measure: One of its measures.
        version: A version.
        against: Another, or None.

    Raises:
        Missing: There is no such version or measure.
    """
    if measure not in info.measures:
        raise Missing(f"'{measure}' was not measured for '{info.name}'.")
    first = info.fleet_version(version)
    second = None if against is None else info.fleet_version(against)
    names = (f"shoal.fleet_{info.name}", f"shoal.evaluations_{info.name}")

    def read() -> Segments:
        return _joined(desk, info, measure, (version, against), (first, second))

    return desk.kept(("segments", info.name, measure, version, against), read, *names)


def _joined(
    desk: Desk,
    info: FleetInfo,
    measure: str,
    versions: tuple[int, int | None],
    fleets: tuple[int, int | None],
) -> Segments:
    import polars as pl

    version, against = versions
    frame = members(desk, info.name, fleets[0])
    if measure not in frame.columns:
        frame = frame.with_columns(pl.lit(None, pl.Float64).alias(measure))
    keys = [name for name in info.by if name in frame.columns]
    taken = [*keys, "segment", "status", "uses", "reason", "rows"]
    frame = frame.select(*taken, value=pl.col(measure).cast(pl.Float64))
    evaluation = ""
    judged = None if against is None else _evaluated(desk, info.name, version, against)
    if judged is not None:
        told = judged.filter(pl.col("segment").is_not_null())
        same = bool(judged.height) and judged["metric"][0] == measure
        columns = ["segment", "verdict", "gain", "q"]
        frame = frame.join(told.select(*columns, "mine", "theirs"), on="segment", how="left")
        if same:
            evaluation = str(judged["evaluation"][0])
            frame = frame.with_columns(value=pl.coalesce("mine", "value"), other=pl.col("theirs"))
        frame = frame.drop("mine", "theirs")
    if "verdict" not in frame.columns:
        empty = {"verdict": pl.String, "gain": pl.Float64, "q": pl.Float64}
        frame = frame.with_columns(pl.lit(None, kind).alias(n) for n, kind in empty.items())
    if "other" not in frame.columns:
        if fleets[1] is None:
            frame = frame.with_columns(other=pl.lit(None, pl.Float64))
        else:
            theirs = members(desk, info.name, fleets[1])
            value = pl.col(measure) if measure in theirs.columns else pl.lit(None)
            theirs = theirs.select("segment", other=value.cast(pl.Float64))
            frame = frame.join(theirs, on="segment", how="left")
    error = measure.removeprefix("baseline_")
    grows = metric_task(error) is None or metric_error(error, 1.0) > metric_error(error, 0.0)
    return Segments(
        frame=frame.sort("segment").with_row_index("row"),
        measure=measure,
        version=version,
        against=against,
        evaluation=evaluation,
        worse_is_more=grows,
    )


def _evaluated(desk: Desk, name: str, version: int, against: int) -> pl.DataFrame | None:
    """The newest evaluation of two versions, ``mine`` being the first's values."""
    import polars as pl

    table = desk.find(f"shoal.evaluations_{name}")
    if table is None:
        return None
    pair = pl.col("challenger"), pl.col("champion")
    rows = table.scan().filter(
        ((pair[0] == version) & (pair[1] == against))
        | ((pair[0] == against) & (pair[1] == version))
    )
    newest = rows.sort("evaluated_at").select("evaluation").tail(1).collect()
    if not newest.height:
        return None
    found = rows.filter(pl.col("evaluation") == newest.item()).collect()
    mine, theirs = "challenger_value", "champion_value"
    if found["challenger"][0] == against:
        mine, theirs = theirs, mine
    return found.with_columns(mine=pl.col(mine), theirs=pl.col(theirs))

"""What came from a bad file or table version: tables, models, segments, predictions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from shoal.errors import TableError, TableNotFound, nearest
from shoal.lake import commit_info, differing
from shoal.store import is_url
from shoal.workspace.provenance import Provenance

if TYPE_CHECKING:
    import polars as pl

    from shoal.tracking import ModelVersion
    from shoal.workspace.workspace import Workspace

__all__ = ["Impact", "ModelImpact", "PredictionImpact", "TableImpact", "find_impact"]


@dataclass(frozen=True, kw_only=True)
class TableImpact:
    """A table that has rows of it.

    Attributes:
        table: The table.
        versions: Its versions that took them in.
        rows: Rows that those versions added, changed or removed; None when files of them were
            vacuumed, so that any row may have.
    """

    table: str
    versions: tuple[int, ...]
    rows: int | None


@dataclass(frozen=True, kw_only=True)
class ModelImpact:
    """A registered version that learned from them.

    Attributes:
        model: The registered model.
        version: Its version.
        aliases: Aliases that point at it.
        segments: Keys of the members that did; None when any may have, or it has no segments.
        members: How many segments it has in all.
    """

    model: str
    version: int
    aliases: tuple[str, ...]
    segments: tuple[str, ...] | None
    members: int


@dataclass(frozen=True, kw_only=True)
class PredictionImpact:
    """Predictions that those members made.

    Attributes:
        table: Where they are.
        model: The registered model.
        rows: How many.
    """

    table: str
    model: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Impact:
    """Everything that came from a file or a table's version.

    Attributes:
        source: What was asked for.
        tables: Tables with rows of it, the root first.
        models: Versions that learned from them, of each model the newest first.
        predictions: Predictions of those.
    """

    source: str
    tables: tuple[TableImpact, ...]
    models: tuple[ModelImpact, ...]
    predictions: tuple[PredictionImpact, ...]


def find_impact(space: Workspace, source: str) -> Impact:
    """Follows a file or a version of a table forward.

    What a version took in is known to the commit: rows that came in one commit with those of a bad
    file count as its own. Nothing is left out; a full refresh or a restore ends it.

    Args:
        space: The workspace.
        source: ``schema.table@version``, a file that a table was read from (its path, the end of
            it, or a pattern), or a data file of a table.

    Raises:
        TableNotFound: Nothing in the lake was read from such a file, or there is no such table.
        TableError: The table's log has no such version.
    """
    trail = _Trail(space)
    tainted = trail.provenance.tainted(trail.roots(source))
    models = tuple(trail.models(tainted))
    return Impact(
        source=source,
        tables=tuple(trail.tables(tainted)),
        models=models,
        predictions=tuple(trail.predictions(models)),
    )


_Tainted = Mapping[str, Mapping[int, frozenset[int]]]


class _Trail:
    def __init__(self, space: Workspace) -> None:
        self.space = space
        self.provenance = Provenance(space.lake)
        self._changed: dict[tuple[str, int, tuple[str, ...]], tuple[set[str], int] | None] = {}

    def roots(self, source: str) -> dict[str, set[int]]:
        name, _, number = source.rpartition("@")
        if name and number.isascii() and number.isdigit():
            table = self.space.lake.existing(name)
            known = [made.version for made in self.provenance.made[table.name]]
            if int(number) not in known:
                raise TableError(
                    f"The log of {table.name} has no version {number}; it has "
                    f"{known[0]} to {known[-1]}.",
                    hint=f"shoal history {table.name}",
                )
            return {table.name: {int(number)}}
        found: dict[str, set[int]] = {}
        every: set[str] = set()
        for table_name, versions in self.provenance.made.items():
            for made in versions:
                every.update(made.files)
                for file, new in made.files.items():
                    if (new or made.whole) and _meant(source, file):
                        found.setdefault(table_name, set()).add(made.version)
        found = found or self._data_file(source)
        if found:
            return found
        if source in self.provenance.tables:
            newest = self.provenance.made[source][-1].version
            raise TableNotFound(
                f"'{source}' is a table; what came from it is asked for by version.",
                hint=f"shoal impact {source}@{newest}, or shoal lineage {source} --downstream",
            )
        close = nearest(Path(source).name, {Path(_path(file)).name for file in every})
        raise TableNotFound(
            f"No table of the lake was read from '{source}'.",
            hint=f"Did you mean '{close}'?" if close else "Write a file, or schema.table@version.",
        )

    def _data_file(self, source: str) -> dict[str, set[int]]:
        """The versions that added a Parquet file of a table."""
        path = source if is_url(source) else str(Path(source).absolute())
        for name, table in self.provenance.tables.items():
            if path.startswith(f"{table.path}/"):
                for made in self.provenance.made[name]:
                    files = table.changes(after=made.version - 1, until=made.version).files
                    if any(file.path == path for file in files):
                        return {name: {made.version}}
        return {}

    def tables(self, tainted: _Tainted) -> Iterable[TableImpact]:
        for name, live in tainted.items():
            here = live[max(live)]
            if not here or name.startswith("shoal."):
                continue
            counts = [self.changed(name, version, ()) for version in sorted(here)]
            rows = [found[1] for found in counts if found is not None]
            whole = len(rows) < len(counts)
            yield TableImpact(
                table=name, versions=tuple(sorted(here)), rows=None if whole else sum(rows)
            )

    def changed(self, table: str, version: int, by: tuple[str, ...]) -> tuple[set[str], int] | None:
        """Keys and number of the rows that a version changed; None when files of it are gone."""
        key = (table, version, by)
        if key not in self._changed:
            before = version - 1 if version else None
            try:
                found, rows = differing(self.provenance.tables[table], before, version, by)
                self._changed[key] = _keys(found, by), rows
            except (TableError, OSError):
                self._changed[key] = None
        return self._changed[key]

    def models(self, tainted: _Tainted) -> Iterable[ModelImpact]:
        tracker = self.space.tracker
        for name in tracker.models():
            for version in sorted(tracker.versions(name), key=lambda v: -v.version):
                live = tainted.get(version.tags.get("shoal.table", ""), {})
                seen = int(version.tags.get("shoal.table_version", -1))
                # Later versions carry members that were trained before.
                if any(bad for number, bad in live.items() if number <= seen):
                    found = self._members(version, live)
                    if found is None and not live.get(seen):
                        continue
                    if found is None or found[0] != ():
                        yield ModelImpact(
                            model=name,
                            version=version.version,
                            aliases=version.aliases,
                            segments=None if found is None else found[0],
                            members=0 if found is None else found[1],
                        )

    def _members(
        self, version: ModelVersion, live: Mapping[int, frozenset[int]]
    ) -> tuple[tuple[str, ...] | None, int] | None:
        """Keys of the members that learned from bad rows, and how many segments there are."""
        members = self.members(version)
        if members is None:
            return None
        table, by = version.tags["shoal.table"], _by_of(self.space, version.name)
        if not by:
            reached = any(live.get(n) for n in members["trained_on_version"].to_list())
            return None if reached else (), members.height
        bad: dict[int, set[str] | None] = {}
        for number in members["trained_on_version"].unique().to_list():
            keys: set[str] | None = set()
            for at in live.get(number, ()):
                found = self.changed(table, at, by)
                keys = None if keys is None or found is None else keys | found[0]
            bad[number] = keys
        if any(keys is None for keys in bad.values()):
            return None, members.height
        rows = zip(
            members["segment"].to_list(), members["trained_on_version"].to_list(), strict=True
        )
        return tuple(k for k, number in rows if k in (bad[number] or ())), members.height

    def members(self, version: ModelVersion) -> pl.DataFrame | None:
        """The segments of a fleet version; None when they lie in no table of this lake."""
        import polars as pl

        name = version.tags.get("shoal.members_table", "")
        if name not in self.provenance.tables:
            return None
        table = self.provenance.tables[name]
        try:
            at = int(version.tags["shoal.members_version"])
            number = int(commit_info(table, at)["fleet_version"])
            rows = table.scan(at).filter(pl.col("fleet_version") == number, pl.col("level") == 0)
            return rows.select("segment", "trained_on_version").collect()
        except (TableError, KeyError, OSError, pl.exceptions.PolarsError):
            return None

    def predictions(self, models: tuple[ModelImpact, ...]) -> Iterable[PredictionImpact]:
        import polars as pl

        needed = {"model", "model_version", "model_used", "prediction"}
        for name, table in self.provenance.tables.items():
            if not needed <= set(table.schema().names):
                continue
            told = [pl.col(column) for column in ("model", "model_version", "model_used")]
            counts = table.scan().group_by(told).agg(rows=pl.len()).collect()
            for model in dict.fromkeys(found.model for found in models):
                rows = 0
                for found in models:
                    if found.model == model:
                        own = (pl.col("model") == model) & (
                            pl.col("model_version") == found.version
                        )
                        if found.segments is not None:
                            own &= pl.col("model_used").is_in(_with_groups(found.segments))
                        rows += int(counts.filter(own)["rows"].sum())
                if rows:
                    yield PredictionImpact(table=name, model=model, rows=rows)


def _path(file: str) -> str:
    parts = urlsplit(file)
    return unquote(parts.path) if parts.scheme == "file" else file


def _meant(source: str, file: str) -> bool:
    path = _path(file)
    if file == source or path == str(Path(source).absolute()):
        return True
    return fnmatchcase(path, source) or fnmatchcase(path, f"*/{source.removeprefix('./')}")


def _keys(values: pl.DataFrame, by: tuple[str, ...]) -> set[str]:
    from shoal.models.segments import segment_codes, segment_key

    if not by:
        return set()
    return {segment_key(key) for key in segment_codes(values.to_arrow(), by)[1]}


def _with_groups(segments: Iterable[str]) -> list[str]:
    """Segments, and the fallback groups that hold them."""
    from shoal.models.segments import segment_key

    found = {"baseline"}
    for key in segments:
        texts = json.loads(key)
        found.update(segment_key(texts[:end]) for end in range(len(texts) + 1))
    return sorted(found)


def _by_of(space: Workspace, name: str) -> tuple[str, ...]:
    declaration = space.models.get(name)
    if declaration is not None:
        return declaration.by
    return space.tracker.fleet(f"{name}@champion").header.by

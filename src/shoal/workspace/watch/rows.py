"""Which rows are new, what they are compared with, and which predictions came true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.errors import ModelError, TableError
from shoal.monitoring import PROFILE, profile
from shoal.workspace.evaluation_rows import new_rows
from shoal.workspace.score import predictions_table
from shoal.workspace.watch.findings import PREDICTION
from shoal.workspace.watch.store import profiles_table

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from shoal.lake import Lake, Table
    from shoal.models import Fleet, ModelDeclaration
    from shoal.tracking import ModelVersion

__all__ = [
    "Labelled",
    "baseline",
    "fresh",
    "in_order",
    "labelled",
    "members",
    "segment_weights",
    "truth_columns",
    "with_predictions",
]

# Rows of a segment that its champion predicts to know what it used to predict.
_SAMPLE = 200


def members(lake: Lake, version: ModelVersion) -> pl.DataFrame:
    """The champion's members: key columns, ``segment``, their metrics and where they come from.

    Raises:
        ModelError: They lie in no table of this lake.
    """
    from shoal.training import read_base

    name, number = (
        version.tags.get("shoal.members_table"),
        version.tags.get("shoal.members_version"),
    )
    base = None
    if name and number and lake.table(name).exists():
        base = read_base(lake.table(name), int(number))
    if base is None:
        raise ModelError(
            f"The members of {version.uri} lie in no table of this lake, so what they were "
            "trained on is not known.",
            hint=f"Train it here: shoal train {version.name}",
        )
    return base.members


def fresh(
    declaration: ModelDeclaration, table: Table, since: int, now: int
) -> tuple[pl.LazyFrame | None, str]:
    """The rows that a table got after a version, and which these are; None when there are none."""
    if since >= now:
        return None, "no row is new"
    found = new_rows(declaration, table, since, now)
    if found is None:
        return None, f"version {since} of {table.name} cannot be told from version {now}"
    return found


def with_predictions(rows: pl.LazyFrame, fleet: Fleet, features: Sequence[str]) -> pl.LazyFrame:
    """Rows with the fleet's prediction of each, in the column ``prediction``."""
    import polars as pl

    by = list(fleet.header.by)
    needed = list(dict.fromkeys([*by, *(field.name for field in fleet.header.features)]))
    kept = list(dict.fromkeys([*by, *features]))
    parts = []
    for part in rows.select(list(dict.fromkeys([*needed, *kept]))).collect_batches(
        chunk_size=500_000, maintain_order=True
    ):
        told = fleet.predict(part.select(needed).to_arrow()).column(0)
        parts.append(part.select(kept).with_columns(pl.Series(PREDICTION, told)))
    if not parts:
        return rows.select(kept).with_columns(pl.lit(None, pl.Float64).alias(PREDICTION))
    return pl.concat(parts).lazy()


def baseline(
    declaration: ModelDeclaration,
    lake: Lake,
    table: Table,
    fleet: Fleet,
    found: pl.DataFrame,
    columns: Sequence[str],
) -> pa.Table:
    """Sketches of what each member learned from, made once for each training of a member.

    Args:
        declaration: The model.
        lake: Where ``shoal.profiles_<model>`` is.
        table: The model's table.
        fleet: The champion.
        found: Its segments, as `members` gives them.
        columns: The features.

    Raises:
        TableError: The rows that some member learned from are gone.
    """
    import polars as pl

    target = profiles_table(lake, declaration.name)
    wanted = found.select("segment", "trained_on_version", "origin_version", *declaration.by)
    known = _kept(target, wanted, columns)
    have = known.select("segment").unique() if known is not None else None
    missing = wanted if have is None else wanted.join(have, on="segment", how="anti")
    parts = []
    for (number, origin), rest in missing.group_by("trained_on_version", "origin_version"):
        made = _sketch(declaration, table, fleet, rest, int(str(number)), columns)
        parts.append(
            pl.DataFrame(made).with_columns(
                window=pl.lit(None, pl.Int64),
                trained_on_version=pl.lit(number, pl.Int64),
                origin_version=pl.lit(origin, pl.Int64),
            )
        )
    if parts:
        new = pl.concat(parts)
        target.append(new.to_arrow(), metadata={"shoal": "baseline"})
        known = new if known is None else pl.concat([known, new.select(known.columns)])
    names = PROFILE.names
    if known is None:
        return PROFILE.empty_table()
    return known.select(names).to_arrow().cast(PROFILE)


def _kept(table: Table, wanted: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame | None:
    """The sketches of these members that are there already, where all columns are."""
    import polars as pl

    if not table.exists():
        return None
    keys = ["segment", "trained_on_version", "origin_version"]
    rows = table.scan().filter(pl.col("window").is_null())
    found = rows.join(wanted.lazy().select(keys), on=keys, how="semi").collect()
    found = found.unique([*keys, "column"], keep="last")
    needed = [*columns, PREDICTION]
    whole = (
        found.filter(pl.col("column").is_in(needed))
        .group_by("segment")
        .agg(pl.col("column").n_unique().alias("columns"))
        .filter(pl.col("columns") == len(needed))
    )
    found = found.join(whole, on="segment", how="semi")
    return found.filter(pl.col("column").is_in(needed)) if found.height else None


def _sketch(
    declaration: ModelDeclaration,
    table: Table,
    fleet: Fleet,
    segments: pl.DataFrame,
    version: int,
    columns: Sequence[str],
) -> pa.Table:
    import polars as pl
    import pyarrow as pa

    by = list(declaration.by)
    try:
        rows = table.scan(version)
        if by:
            keys = segments.select(by).cast(dict(rows.select(by).collect_schema()))  # type: ignore[arg-type]
            rows = rows.join(keys.lazy(), on=by, how="semi", nulls_equal=True)
        # Only rows with a target were learned from.
        rows = rows.filter(pl.col(declaration.target).is_not_null())
        first = profile(rows, by, columns)
        told = with_predictions(_sampled(rows, by, declaration.time), fleet, [])
        second = profile(told, by, [PREDICTION])
    except (OSError, pl.exceptions.PolarsError) as error:
        raise TableError(
            f"The rows of {table.name} version {version}, which members of '{declaration.name}' "
            f"learned from, cannot be read: {error}",
            hint='Compare with the window before: baseline = "previous" in [monitor] of shoal.toml',
        ) from error
    return pa.concat_tables([first, second])


def _sampled(rows: pl.LazyFrame, by: list[str], time: str | None) -> pl.LazyFrame:
    import polars as pl

    place, size = pl.int_range(pl.len()), pl.len()
    if time:
        rows = rows.sort(time, maintain_order=True)
    if by:
        place, size = place.over(by), size.over(by)
    step = (size / _SAMPLE).ceil().clip(lower_bound=1).cast(pl.Int64)
    return rows.filter(place % step == 0)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Predictions and what came true, in the order of time.

    Attributes:
        frame: The key columns, ``prediction`` and the target.
        which: Which these are.
    """

    frame: pl.DataFrame
    which: str


def labelled(
    declaration: ModelDeclaration,
    lake: Lake,
    table: Table,
    fleet: Fleet,
    version: ModelVersion,
    since: int,
    now: int,
) -> Labelled | None:
    """The champion's predictions whose truth a table got after a version; None when nobody knows.

    Truth that comes late counts in the window in which it comes. Predictions are those of
    ``<model>_predictions``, by the declared key; without, the champion predicts the new rows.
    """
    import polars as pl

    target, key = declaration.target, list(declaration.key)
    truth = table.scan(now).filter(pl.col(target).is_not_null())
    made = predictions_table(declaration, lake)
    if key and made.exists():
        try:
            before = table.scan(since).filter(pl.col(target).is_not_null()).select(key)
            come = truth.join(before, on=key, how="anti", nulls_equal=True)
            own = made.scan().filter(
                pl.col("model_version") == version.version, pl.col(PREDICTION).is_not_null()
            )
            said = own.unique(key, keep="last").select(*key, PREDICTION)
            wanted = truth_columns(declaration)
            rows = come.select(wanted).join(said, on=key, how="inner", nulls_equal=True)
            return Labelled(frame=in_order(rows.collect(), declaration), which="predictions made")
        except (TableError, OSError, pl.exceptions.PolarsError):
            return None  # that version's files were deleted
    new, _ = fresh(declaration, table, since, now)
    if new is None:
        return None
    told = with_predictions(
        new.filter(pl.col(target).is_not_null()), fleet, truth_columns(declaration)
    )
    return Labelled(frame=in_order(told.collect(), declaration), which="new rows, predicted now")


def truth_columns(declaration: ModelDeclaration) -> list[str]:
    """What is kept of a row with its truth: its keys, its time and the target."""
    time = [declaration.time] if declaration.time else []
    return list(dict.fromkeys([*declaration.key, *declaration.by, *time, declaration.target]))


def in_order(rows: pl.DataFrame, declaration: ModelDeclaration) -> pl.DataFrame:
    """Rows in the order of the declared time."""
    return rows.sort(declaration.time, maintain_order=True) if declaration.time else rows


def segment_weights(rows: pl.LazyFrame, by: Sequence[str], weight: str | None) -> dict[str, Any]:
    """How much each segment matters: the sum of a column over its rows, else their number."""
    import polars as pl

    from shoal.models.segments import segment_codes, segment_key

    value = pl.len() if weight is None else pl.col(weight).cast(pl.Float64).abs().sum()
    if not by:
        return {segment_key(()): float(rows.select(value).collect().item() or 0)}
    found = rows.group_by(list(by)).agg(value.alias("_weight")).collect()
    codes, texts = segment_codes(found.select(by).to_arrow(), by)
    return {
        segment_key(texts[code]): float(amount or 0)
        for code, amount in zip(codes.tolist(), found["_weight"].to_list(), strict=True)
    }

"""A composite: a fleet whose members come from several trainings, each with its origin."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shoal.errors import ModelError, TableError
from shoal.lake import Lake
from shoal.models import FleetHeader, ModelDeclaration, TrainedFleet, write_fleet
from shoal.models.codecs import template_modules
from shoal.training.artifacts import artifact_folder
from shoal.training.base import Base, read_base
from shoal.training.members import Members
from shoal.training.summary import declared_params, summarise

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

__all__ = ["Composite", "Part", "compose"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A registered version, as far as its members can go into a composite.

    Attributes:
        version: Its number in the registry.
        members_version: The version of the fleet table that holds its members.
        table_version: The version of the table that it learned from.
        current_version: The version of that table it is up to date with.
        header: Its fleet's header.
    """

    version: int
    members_version: int
    table_version: int
    current_version: int
    header: FleetHeader


@dataclass(frozen=True, kw_only=True)
class Composite:
    """Members of two versions put together; nothing is written before `commit`.

    Attributes:
        declaration: The model's declaration.
        base: Whose members are kept.
        other: Whose members are taken.
        members: The members' rows.
        templates: Their templates by id.
        target: What the fleet table's commit says of the target.
        metrics: As for a training, from what each member measured in its own.
        failures: Cause of each fallback or failure, and how many segments it met.
        taken: Keys of the segments whose members were taken.
    """

    declaration: ModelDeclaration
    base: Part
    other: Part
    members: pl.DataFrame
    templates: dict[str, str]
    target: dict[str, str]
    metrics: dict[str, float]
    failures: dict[str, int]
    taken: tuple[str, ...]

    def commit(
        self, lake: Lake, *, inputs: dict[str, str], example: pa.Table, reason: str
    ) -> TrainedFleet:
        """Commits the members as one version of the fleet table, and writes the artifact.

        Args:
            lake: Where the fleet table is.
            inputs: MLflow's types of the input columns.
            example: Some rows of the input columns.
            reason: Where the members come from, for the record.

        Raises:
            Conflict: A training of the model committed first; nothing was committed.
        """
        import polars as pl

        begun, name = time.perf_counter(), self.declaration.name
        table = lake.table(f"shoal.fleet_{name}")
        application = f"shoal-fleet-{name}"
        number = (table.transaction(application) or 0) + 1
        newer = max(self.base, self.other, key=lambda part: part.table_version)
        header = replace(
            self.base.header,
            fleet_version=number,
            templates=self.templates,
            table_version=newer.table_version,
            modules=tuple(
                sorted({m for t in self.templates.values() for m in template_modules(t)})
            ),
        )
        rows = self.members.with_columns(fleet_version=pl.lit(number, pl.Int64)).to_arrow()
        artifact = artifact_folder(table, number)
        write_fleet(artifact, header, rows)
        try:
            committed = table.append(
                rows,
                app=(application, number),
                metadata={"shoal": "fleet", "fleet_version": str(number), **self.target},
            )
        except BaseException:
            shutil.rmtree(artifact, ignore_errors=True)
            raise
        return TrainedFleet(
            declaration=self.declaration,
            fleet_version=number,
            table=header.table,
            table_version=header.table_version,
            table_id=self.target["shoal.table_id"],
            table_path=lake.table(header.table).path,
            members_table=table.name,
            members_version=committed,
            artifact=artifact,
            params=declared_params(self.declaration),
            metrics=self.metrics,
            seed=self.declaration.seed,
            input_example=example,
            tags={"shoal.parts": f"{self.base.version},{self.other.version}"},
            inputs=inputs,
            seconds=time.perf_counter() - begun,
            failures=self.failures,
            reason=reason,
            current_version=max(self.base.current_version, self.other.current_version),
        )


def compose(
    declaration: ModelDeclaration, lake: Lake, base: Part, other: Part, keys: Collection[str]
) -> Composite:
    """Takes the members of some segments from another version.

    A taken member that predicts with a fallback group brings that group's model along, under a
    key of its own, such as ``["UA"]@3``.

    Args:
        declaration: The model's declaration.
        lake: Where the fleet table is.
        base: Whose other members are kept.
        other: Whose members are taken.
        keys: Canonical keys of the segments.

    Raises:
        ModelError: A segment does not exist in ``other``, or the versions predict other things.
        TableError: Members were deleted from the fleet table.
    """
    import polars as pl

    _refuse_unlike(base, other)
    old, new = (_members(declaration.name, lake, part) for part in (base, other))
    wanted = pl.Series("segment", sorted(set(keys)), dtype=pl.String)
    taken = new.segments.filter(pl.col("segment").is_in(wanted.implode()))
    if missing := sorted(set(wanted) - set(taken["segment"])):
        raise ModelError(
            f"Version {other.version} of '{declaration.name}' has no segment {missing[0]}."
        )
    sums = _other_centre(taken, old.target.mean - new.target.mean)
    taken, brought = _with_groups(sums, old, new)
    kept = old.members.filter((pl.col("level") > 0) | ~pl.col("segment").is_in(wanted.implode()))
    both = pl.concat([kept, taken, brought], how="diagonal_relaxed")
    templates = _templates(old) | _templates(new)
    used = both["template"].drop_nulls().unique(maintain_order=True).to_list()
    name = pl.col("template")
    text = name.replace_strict(templates, default=None, return_dtype=pl.String)
    both = both.with_columns(structure=pl.when(name.is_first_distinct()).then(text))
    segments = both.filter(pl.col("level") == 0)
    metrics, pooled = _pooled(declaration, segments, old, new)
    failures = segments.filter(pl.col("status") != "ok").group_by("reason").len().sort("len")
    causes = {(r or "failed")[:120]: n for r, n in reversed(failures.rows())}
    members = Members(table=both.to_arrow(), templates=templates, failures=causes, pooled=pooled)
    return Composite(
        declaration=declaration,
        base=base,
        other=other,
        members=both,
        templates={name: templates[name] for name in used},
        target={
            "shoal.table_id": (old if base.table_version > other.table_version else new).table_id,
            "shoal.centre": repr(old.target.mean),
            "shoal.classes": json.dumps(old.target.classes),
        },
        metrics=summarise(
            members,
            metrics,
            declaration.metric,
            rows=int(segments["rows"].sum()),
            fit_seconds=0.0,
        ),
        failures=causes,
        taken=tuple(wanted),
    )


def _refuse_unlike(base: Part, other: Part) -> None:
    for what in ("by", "features", "target", "task", "classes", "interval", "table"):
        ours, theirs = getattr(base.header, what), getattr(other.header, what)
        if ours != theirs:
            raise ModelError(
                f"Versions {base.version} and {other.version} of '{base.header.model}' differ in "
                f"{what}: their members cannot be one fleet.",
                hint=f"Promote the whole: shoal promote {base.header.model} {other.version}",
            )


def _members(name: str, lake: Lake, part: Part) -> Base:
    found = read_base(lake.table(f"shoal.fleet_{name}"), part.members_version)
    if found is None:
        raise TableError(
            f"The members of '{name}' version {part.version} are no longer in "
            f"shoal.fleet_{name} (its version {part.members_version}).",
            hint=f"The whole version can still be promoted: shoal promote {name} {part.version}",
        )
    return found


def _with_groups(taken: pl.DataFrame, old: Base, new: Base) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The taken members, and the fallback groups that they use and the base lacks."""
    import polars as pl

    used = taken.filter(pl.col("model_used") != pl.col("segment"))["model_used"].drop_nulls()
    groups = new.members.filter(
        (pl.col("level") > 0) & pl.col("segment").is_in(used.unique().implode())
    )
    ours = old.members.select("segment", "template", "state")
    same = groups.join(ours, on=["segment", "template", "state"], how="semi")
    brought = groups.join(same, on="segment", how="anti")
    name = pl.col("segment")
    own = pl.when(name.str.contains(r"@\d+$")).then(name)
    renamed = brought.select(
        "segment", as_=own.otherwise(pl.format("{}@{}", name, pl.col("origin_version")))
    )
    names = dict(renamed.rows())
    brought = brought.with_columns(
        segment=name.replace(names), model_used=pl.col("model_used").replace(names)
    )
    # One composite may have brought the very same group already.
    brought = brought.join(ours, on=["segment"], how="anti")
    taken = taken.with_columns(
        model_used=pl.when(pl.col("model_used") == name)
        .then(name)
        .otherwise(pl.col("model_used").replace(names))
    )
    return taken, brought


def _templates(base: Base) -> dict[str, str]:
    known = base.members.filter(base.members["structure"].is_not_null())
    return dict(known.select("template", "structure").iter_rows())


def _other_centre(members: pl.DataFrame, shift: float) -> pl.DataFrame:
    """r2's sums around the base's centre: those of two trainings are added up."""
    import polars as pl

    if "sums_r2" not in members.columns or shift == 0:
        return members
    sums = [pl.col("sums_r2").list.get(i, null_on_oob=True) for i in range(4)]
    squared, rows, total, total_squared = sums
    moved = pl.concat_list(
        squared,
        rows,
        total - shift * rows,
        total_squared - 2 * shift * total + shift * shift * rows,
    )
    return members.with_columns(
        sums_r2=pl.when(pl.col("sums_r2").is_not_null()).then(moved).otherwise(None)
    )


def _pooled(
    declaration: ModelDeclaration, segments: pl.DataFrame, old: Base, new: Base
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The metrics that both versions measured, and their sums over all segments."""
    both = set(old.members.columns) & set(new.members.columns)
    metrics = [n.removeprefix("sums_") for n in segments.columns if n in both and "sums_" in n]
    pooled = {}
    for metric in metrics:
        measured = segments[f"sums_{metric}"].drop_nulls()
        if not len(measured):
            continue
        flat = measured.explode().to_numpy()
        sums = flat.reshape(len(measured), -1).sum(axis=0, keepdims=True)
        column = f"baseline_{declaration.metric}" if metric == "baseline" else metric
        pooled[column] = sums
    return [m for m in metrics if m != "baseline"], pooled

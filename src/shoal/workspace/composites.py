"""Composites as a workspace makes them: whose members, which segments, and a version of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.errors import ModelError, TrackingError, nearest

if TYPE_CHECKING:
    import polars as pl

    from shoal.models import FleetHeader
    from shoal.tracking import ModelVersion
    from shoal.training import Composite, Part
    from shoal.workspace.opened import Opened

__all__ = [
    "compose_members",
    "earlier_members",
    "member_keys",
    "named_keys",
    "register_composite",
]


def member_keys(space: Opened, version: ModelVersion) -> pl.DataFrame:
    """Each segment's key, and template and state of the member that predicts for it."""
    import polars as pl
    import pyarrow as pa

    folder = space.tracker.fleet_folder(version)
    members = pa.ipc.open_file(pa.memory_map(str(folder / "members.arrow"))).read_all()
    frame = pl.from_arrow(members.select(["segment", "level", "model_used", "template", "state"]))
    assert isinstance(frame, pl.DataFrame)
    used = frame.select("template", "state", model_used="segment")
    segments = frame.filter(pl.col("level") == 0).select("segment", "model_used")
    return segments.join(used, on="model_used", how="left", maintain_order="left")


def named_keys(header: FleetHeader, members: pl.DataFrame, texts: Sequence[str]) -> list[str]:
    """Segments as a person names them: ``UA,IAH``, ``["UA","IAH"]``, or ``carrier=UA`` for many.

    Args:
        header: Names the key columns.
        members: The segments' keys, as ``segment``.
        texts: Their names.

    Raises:
        ModelError: There is no such segment.
    """
    keys: list[str] = members["segment"].to_list()
    values = {key: json.loads(key) for key in keys}
    plain = {",".join(v or "null" for v in value): key for key, value in values.items()}
    found: set[str] = set()
    for text in texts:
        if text in values or text in plain:
            found.add(text if text in values else plain[text])
            continue
        wanted = dict(part.partition("=")[::2] for part in text.split(",")) if "=" in text else {}
        places = {name: header.by.index(name) for name in wanted if name in header.by}
        many = [
            key
            for key, value in values.items()
            if wanted and all((value[i] or "null") == wanted[n] for n, i in places.items())
        ]
        if not many or len(places) < len(wanted):
            close = nearest(text, plain)
            raise ModelError(
                f"Model '{header.model}' has no segment {text} (by {', '.join(header.by) or '-'}).",
                hint=f"Did you mean --segment '{close}'?" if close else None,
            )
        found.update(many)
    return sorted(found)


def compose_members(
    space: Opened, model: str, base: ModelVersion, other: ModelVersion, keys: Sequence[str]
) -> Composite:
    """Some members of one version among those of another; nothing is written yet.

    Args:
        space: The workspace.
        model: The model's name.
        base: Whose other members are kept.
        other: Whose members are taken.
        keys: Canonical keys of their segments.

    Raises:
        ProjectError: The project declares no such model.
        TrackingError: The members of a version are not in this lake.
        ModelError: The versions' members cannot be one fleet.
    """
    from shoal.training import compose

    (declaration,) = space.declared([model])
    parts = [_part(space, version) for version in (base, other)]
    return compose(declaration, space.lake, parts[0], parts[1], keys)


def _part(space: Opened, version: ModelVersion) -> Part:
    from shoal.models.artifact import read_header
    from shoal.training import Part

    header = read_header(space.tracker.fleet_folder(version))
    tags, table = version.tags, f"shoal.fleet_{version.name}"
    if tags.get("shoal.members_table") != table or not tags.get("shoal.members_version"):
        raise TrackingError(
            f"The members of '{version.name}' version {version.version} are not in {table} of this "
            "lake.",
            hint=f"The whole can be promoted: shoal promote {version.name} {version.version}",
        )
    trained = int(tags.get("shoal.table_version", header.table_version))
    return Part(
        version=version.version,
        members_version=int(tags["shoal.members_version"]),
        table_version=trained,
        current_version=int(tags.get("shoal.current_version", trained)),
        header=header,
    )


def register_composite(
    space: Opened, composite: Composite, base: ModelVersion, what: str
) -> ModelVersion:
    """Commits a composite and registers it as a version without an alias.

    Args:
        space: The workspace.
        composite: What to register.
        base: Whose signature and input example it gets.
        what: Which segments, in words.

    Raises:
        Conflict: A training of the model committed first; nothing was committed.
    """
    from shoal.tracking import run_context

    ref = f"{base.name}/{base.version}"
    trained = composite.commit(
        space.lake,
        inputs=space.tracker.input_types(ref),
        example=space.tracker.input_example(ref),
        reason=f"{what} of version {composite.other.version}, the others of version {base.version}",
    )
    context = run_context(space.project.root, project=space.project.name)
    version = space.tracker.record(trained, context, alias=None)
    shutil.rmtree(trained.artifact, ignore_errors=True)
    return version


def earlier_members(
    space: Opened,
    model: str,
    current: ModelVersion,
    segments: Sequence[str],
    earlier: Sequence[int],
) -> tuple[int, tuple[str, ...]]:
    """A composite with the segments' members of the last version that had others."""
    import polars as pl

    from shoal.models.artifact import read_header

    header = read_header(space.tracker.fleet_folder(current))
    now = member_keys(space, current)
    keys = named_keys(header, now, segments)
    ours = now.filter(pl.col("segment").is_in(keys))
    for number in earlier:
        version = space.tracker.resolve(f"{model}/{number}")
        theirs = member_keys(space, version).filter(pl.col("segment").is_in(keys))
        same = ours.join(
            theirs, on=["segment", "state", "template"], how="semi", nulls_equal=True
        ).height
        if theirs.height == len(keys) and same < len(keys):
            composite = compose_members(space, model, current, version, keys)
            made = register_composite(space, composite, current, f"{len(keys):,} segments")
            return made.version, tuple(keys)
    versions = ", ".join(map(str, earlier))
    raise TrackingError(
        f"No other member of {', '.join(segments)} is in an earlier version of '{model}' "
        f"({versions}).",
        hint=f"Name one: shoal rollback {model} --segment {segments[0]} --to VERSION",
    )

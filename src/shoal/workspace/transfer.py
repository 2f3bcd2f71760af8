"""Exporting a version with its lineage to a folder, and importing it anywhere."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import ModelError, TableError, TrackingError
from shoal.workspace.manifest import read_checked, write_manifest

if TYPE_CHECKING:
    import polars as pl

    from shoal.tracking import ModelVersion
    from shoal.workspace.workspace import Workspace

__all__ = ["Exported", "Imported", "export_version", "import_version"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MEMBERS, _AUDIT = "members.parquet", "audit.json"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote.

    Attributes:
        model: The version, as ``models:/delay/7``.
        folder: Where.
        files: How many.
        bytes: Together.
        digest: SHA-256 of the manifest: whoever has it can check all the rest.
    """

    model: str
    folder: str
    files: int
    bytes: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import made.

    Attributes:
        model: The new version, as ``models:/delay/3``.
        run_id: Its run.
        source: The version that was exported.
        members: The fleet table's version with its members; empty when the lake has none.
        digest: SHA-256 of the manifest.
    """

    model: str
    run_id: str
    source: str
    members: str
    digest: str


def export_version(space: Workspace, ref: str, folder: str | Path) -> Exported:
    """Writes a version to a folder: model, run, code, members, evidence, each file checksummed.

    Args:
        space: The workspace.
        ref: Such as ``delay/7`` or ``delay@champion``.
        folder: A new or an empty folder.

    Raises:
        TrackingError: There is no such version, another tool made it, or the folder is not empty.
    """
    from shoal.tracking.transfer import write_out

    version = space.tracker.resolve(ref)
    place = Path(folder).absolute()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise TrackingError(f"{place} is not empty.", hint="name a new folder")
    place.mkdir(parents=True, exist_ok=True)
    write_out(space.tracker, version, place)
    rows = _members(space, version)
    if rows is not None:
        rows.write_parquet(place / _MEMBERS)
    text = json.dumps(_evidence(space, version), indent=1, default=str)
    (place / _AUDIT).write_text(text, encoding="utf-8")
    digest = write_manifest(place)
    files = [file for file in place.rglob("*") if file.is_file()]
    return Exported(
        model=version.uri,
        folder=str(place),
        files=len(files),
        bytes=sum(file.stat().st_size for file in files),
        digest=digest,
    )


def _members(space: Workspace, version: ModelVersion) -> pl.DataFrame | None:
    import polars as pl

    tags = version.tags
    try:
        table = space.lake.table(tags["shoal.members_table"])
        rows = table.scan(int(tags["shoal.members_version"]))
        return rows.filter(pl.col("fleet_version") == int(tags["shoal.fleet_version"])).collect()
    except (KeyError, ValueError, TableError, OSError):
        return None


def _evidence(space: Workspace, version: ModelVersion) -> dict[str, Any]:
    """The moves to and from a version, and what evaluations found of it."""
    import polars as pl

    number = version.version
    moves = [
        asdict(move)
        for move in space.audit.moves(version.name)
        if number in (move.before, move.version)
    ]
    found: list[dict[str, Any]] = []
    table = space.lake.table(f"shoal.evaluations_{version.name}")
    if table.exists():
        rows = table.scan()
        told = (pl.col("challenger") == number) | (pl.col("champion") == number)
        whole = rows.filter(told, pl.col("segment").is_null()).collect()
        found = whole.to_dicts()
    return {"moves": moves, "evaluations": found}


def import_version(
    space: Workspace,
    folder: str | Path,
    *,
    name: str | None = None,
    digest: str | None = None,
    trust_pickle: bool = False,
) -> Imported:
    """Registers what was exported as a new version, without an alias.

    Its members are added to the fleet table of this lake, unless they are there already, so that it
    can be compared, promoted in parts and queried like any other. The evidence goes with the run.

    Args:
        space: The workspace.
        folder: The exported folder.
        name: The registered model; as it was by default.
        digest: What ``shoal export`` printed; None takes what is there, if its checksums hold.
        trust_pickle: Also take members that were pickled.

    Raises:
        TrackingError: The folder is not as it was exported, or MLflow refuses.
        ModelError: It would load code that is not Shoal's, or holds pickles.
        Conflict: A training of the model committed first; nothing was registered.
    """
    from shoal.models import Fleet
    from shoal.tracking.transfer import MODEL, RUN, about, read_in, refuse_other_loaders

    source = Path(folder).absolute()
    with tempfile.TemporaryDirectory(prefix="shoal-import-") as temporary:
        place = Path(temporary) / "folder"
        found = read_checked(source, place, digest=digest)
        told = about(place)
        model = name or str(told["name"])
        if not _NAME.fullmatch(model):
            raise TrackingError(
                f"'{model}' cannot name a model: it is letters, digits and underscores.",
                hint="shoal import FOLDER --name NAME",
            )
        refuse_other_loaders(place / MODEL)
        Fleet.open(_fleet(place / MODEL), trust_pickle=trust_pickle)
        (place / RUN / "imported").mkdir(parents=True, exist_ok=True)
        (place / _AUDIT).replace(place / RUN / "imported" / _AUDIT)
        tags, members = _own_members(space, place, model, told)
        origin = f"{told['name']}/{told['version']}"
        tags |= {"shoal.imported_from": f"{origin} (manifest {found})"}
        run_id, number = read_in(space.tracker, place, model, tags)
    return Imported(
        model=f"models:/{model}/{number}",
        run_id=run_id,
        source=origin,
        members=members,
        digest=found,
    )


def _fleet(folder: Path) -> Path:
    import yaml

    told = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    place = (folder / str(told["flavors"]["python_function"]["data"])).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise ModelError(f"{folder / 'MLmodel'} names a fleet outside of its folder.")
    return place


def _own_members(
    space: Workspace, place: Path, model: str, told: dict[str, Any]
) -> tuple[dict[str, str], str]:
    """Tags that say where the members are in this lake, and that place; adds them if need be."""
    import polars as pl

    if not (place / _MEMBERS).is_file():
        return {"shoal.members_version": ""}, ""
    rows = pl.read_parquet(place / _MEMBERS)
    tags = {str(k): str(v) for k, v in told["tags"].items()}
    table = space.lake.table(f"shoal.fleet_{model}")
    version = tags.get("shoal.members_version", "")
    if table.exists() and version.isdigit() and tags.get("shoal.members_table") == table.name:
        try:
            there = table.scan(int(version)).filter(
                pl.col("fleet_version") == int(tags["shoal.fleet_version"])
            )
            names = ["segment", "level", "template", "state"]
            if there.select(names).collect().equals(rows.select(names)):
                return {}, f"{table.name}@{version}"
        except (TableError, KeyError, ValueError, OSError, pl.exceptions.PolarsError):
            pass  # other members: they are added
    application = f"shoal-fleet-{model}"
    number = (table.transaction(application) or 0) + 1
    rows = rows.with_columns(fleet_version=pl.lit(number, pl.Int64))
    committed = table.append(
        rows.to_arrow(),
        app=(application, number),
        metadata={"shoal": "fleet", "fleet_version": str(number), "shoal.imported": "true"},
    )
    return {
        "shoal.members_table": table.name,
        "shoal.members_version": str(committed),
        "shoal.fleet_version": str(number),
    }, f"{table.name}@{committed}"

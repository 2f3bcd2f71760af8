"""The fleet artifact: a folder with ``fleet.json`` and a memory-mapped ``members.arrow``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from shoal.errors import ModelError
from shoal.models.code import write_code

__all__ = [
    "MEMBER_SCHEMA",
    "FeatureField",
    "FleetHeader",
    "member_rows",
    "read_header",
    "write_fleet",
]

FORMAT = 1

MEMBER_SCHEMA = pa.schema(
    [
        ("segment", pa.string()),
        ("level", pa.int8()),
        ("status", pa.string()),
        ("model_used", pa.string()),
        ("reason", pa.string()),
        ("template", pa.string()),
        ("state", pa.large_binary()),
        ("interval", pa.float64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class FeatureField:
    """One feature column.

    Attributes:
        name: The column's name.
        dtype: Its Arrow type in the training table, as text.
    """

    name: str
    dtype: str


@dataclass(frozen=True, kw_only=True)
class FleetHeader:
    """What all members of a fleet share.

    Attributes:
        model: The model's name.
        fleet_version: The fleet's version.
        task: ``regression`` or ``classification``.
        by: The segment columns.
        features: The feature columns, in the estimators' order.
        target: The predicted column.
        levels: The key columns of each level: the segments, then each group they fall back to,
            the last empty (the global model).
        templates: The structure of the members, by id.
        table: The training table.
        table_version: Its version.
        classes: The target's values in the order of the estimators' class codes.
        modules: Modules outside the allow-list whose estimator classes the fleet uses.
        interval: The share of targets that prediction intervals are to cover; None without.
        code: SHA-256 of the modules whose source the artifact keeps, by name.
    """

    model: str
    fleet_version: int
    task: str
    by: tuple[str, ...]
    features: tuple[FeatureField, ...]
    target: str
    levels: tuple[tuple[str, ...], ...]
    templates: Mapping[str, str]
    table: str
    table_version: int
    classes: tuple[str | int | bool, ...] | None = None
    modules: tuple[str, ...] = field(default=())
    interval: float | None = None
    code: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The content of ``fleet.json``."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "model": self.model,
            "fleet_version": self.fleet_version,
            "task": self.task,
            "by": list(self.by),
            "features": [{"name": f.name, "dtype": f.dtype} for f in self.features],
            "target": self.target,
            "levels": [list(level) for level in self.levels],
            "templates": dict(self.templates),
            "table": self.table,
            "table_version": self.table_version,
            "modules": list(self.modules),
        }
        if self.classes is not None:
            content["classes"] = list(self.classes)
        if self.interval is not None:
            content["interval"] = self.interval
        if self.code:
            content["code"] = dict(self.code)
        return content


def write_fleet(
    folder: str | Path,
    header: FleetHeader,
    members: pa.Table,
    *,
    code: Mapping[str, str] | None = None,
) -> None:
    """Write a fleet artifact.

    Args:
        folder: Where; created when missing.
        header: What the members share.
        members: One row per segment and fallback group, with the columns ``segment``, ``level``,
            ``status``, ``model_used``, ``reason``, ``template``, ``state`` and maybe
            ``interval``; others are dropped.
        code: Source of the modules that members' classes come from, by name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = member_rows(members).cast(MEMBER_SCHEMA)
    rows = rows.sort_by([("level", "ascending"), ("segment", "ascending")]).combine_chunks()
    with (
        pa.OSFile(str(folder / "members.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, MEMBER_SCHEMA) as writer,
    ):
        writer.write_table(rows)
    if code:
        header = replace(header, code=write_code(folder, code))
    text = json.dumps(header.to_json(), ensure_ascii=False, indent=1)
    (folder / "fleet.json").write_text(text, encoding="utf-8")


def member_rows(members: pa.Table) -> pa.Table:
    """The columns of an artifact's members; of those without intervals they are null.

    Raises:
        KeyError: Another column is missing.
    """
    if "interval" not in members.column_names:
        members = members.append_column("interval", pa.nulls(members.num_rows, pa.float64()))
    return members.select(MEMBER_SCHEMA.names)


def read_header(folder: Path) -> FleetHeader:
    """Read ``fleet.json``.

    Raises:
        ModelError: The folder is no fleet artifact of a known format.
    """
    path = folder / "fleet.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"No fleet artifact at {folder}: fleet.json is missing.") from None
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ModelError(
            f"{path} has format {found!r}; this version of Shoal reads format {FORMAT}.",
            hint="upgrade Shoal: pip install --upgrade shoal",
        )
    try:
        return FleetHeader(
            model=content["model"],
            fleet_version=content["fleet_version"],
            task=content["task"],
            by=tuple(content["by"]),
            features=tuple(FeatureField(**f) for f in content["features"]),
            target=content["target"],
            levels=tuple(tuple(level) for level in content["levels"]),
            templates=content["templates"],
            table=content["table"],
            table_version=content["table_version"],
            classes=tuple(content["classes"]) if "classes" in content else None,
            modules=tuple(content.get("modules", ())),
            interval=content.get("interval"),
            code=content.get("code", {}),
        )
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path} is not a fleet header: {error!r}") from error

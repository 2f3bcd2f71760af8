"""Trainings that wait to be recorded, because MLflow could not be reached when they ended.

Each is a folder beside the fleet's artifact: a document, the input example, and the code that the
run keeps. It appears as a whole, by one rename, and goes when MLflow has it.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import TrackingError
from shoal.tracking.context import RunContext

if TYPE_CHECKING:
    from shoal.models import ModelDeclaration, TrainedFleet

__all__ = ["Pending", "keep_pending", "read_pending"]

_FORMAT = 1
_FOLDER = "_pending"
_TUPLES = ("by", "metrics", "features", "key")
_OTHERS = ("declaration", "searched", "artifact", "input_example")


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A training that was committed and not recorded.

    Attributes:
        folder: Where it waits.
        trained: What training made.
        context: Its code, environment and user.
        alias: The alias that the version is to get, or None.
        promoting: Whether it is to become the champion, if its gate lets it.
        why: Why it was not recorded.
    """

    folder: Path
    trained: TrainedFleet
    context: RunContext
    alias: str | None
    promoting: bool
    why: str

    def done(self) -> None:
        """Forgets it: MLflow has it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.trained.artifact, ignore_errors=True)


def keep_pending(
    trained: TrainedFleet, context: RunContext, *, alias: str | None, promoting: bool, why: str
) -> Path:
    """Keeps a training until MLflow can be reached.

    Args:
        trained: What training made; its artifact stays where it is.
        context: Its code, environment and user.
        alias: See `Pending`.
        promoting: See `Pending`.
        why: See `Pending`.

    Returns:
        The folder.
    """
    import pyarrow as pa

    folder = _waiting(trained.artifact) / f"{trained.fleet_version:06}"
    new = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    (new / "code").mkdir(parents=True)
    for name, content in context.files.items():
        (new / "code" / name).write_bytes(content)
    rows = trained.input_example
    with (
        pa.OSFile(str(new / "example.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, rows.schema) as writer,
    ):
        writer.write_table(rows)
    plain = {f.name: getattr(trained, f.name) for f in fields(trained) if f.name not in _OTHERS}
    # What the person's own function was is told by the fingerprint; it is not needed again.
    tags = {"shoal.fingerprint": trained.declaration.fingerprint(), **trained.tags}
    document = {
        "format": _FORMAT,
        "alias": alias,
        "promoting": promoting,
        "why": why,
        "artifact": trained.artifact.name,
        "declaration": _declared(trained.declaration),
        "searched": None if trained.searched is None else _declared(trained.searched),
        "trained": plain | {"tags": tags},
        "context": {f.name: getattr(context, f.name) for f in fields(context) if f.name != "files"},
    }
    text = json.dumps(document, indent=1, default=repr)
    (new / "pending.json").write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return folder


def read_pending(fleet_table: str) -> list[Pending]:
    """The trainings of one model that wait, the oldest first.

    Args:
        fleet_table: Folder of the model's ``shoal.fleet_<model>`` table.

    Raises:
        TrackingError: One of them cannot be read.
    """
    waiting = Path(fleet_table) / _FOLDER
    if not waiting.is_dir():
        return []
    return [_read(folder) for folder in sorted(waiting.iterdir()) if folder.name.isdigit()]


def _waiting(artifact: Path) -> Path:
    return artifact.parent.parent / _FOLDER


def _read(folder: Path) -> Pending:
    import pyarrow as pa

    from shoal.models import TrainedFleet

    try:
        text = (folder / "pending.json").read_text(encoding="utf-8")
        document: dict[str, Any] = json.loads(text)
        if document["format"] != _FORMAT:
            raise TrackingError(
                f"{folder} has format {document['format']}; this version of Shoal reads {_FORMAT}."
            )
        example = pa.ipc.open_file((folder / "example.arrow").read_bytes()).read_all()
        files = {file.name: file.read_bytes() for file in sorted((folder / "code").iterdir())}
        artifact = folder.parent.parent / "_fleets" / Path(document["artifact"]).name
        searched = document["searched"]
        return Pending(
            folder=folder,
            trained=TrainedFleet(
                **document["trained"],
                artifact=artifact,
                input_example=example,
                declaration=_declaration(document["declaration"]),
                searched=None if searched is None else _declaration(searched),
            ),
            context=RunContext(**document["context"], files=files),
            alias=document["alias"],
            promoting=document["promoting"],
            why=document["why"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrackingError(
            f"The training that waits in {folder} cannot be read: {error!r}",
            hint="take the folder away, and train again",
        ) from error


def _declared(declaration: ModelDeclaration) -> dict[str, Any]:
    left_out = {"function", "search"}
    return {f.name: getattr(declaration, f.name) for f in fields(declaration)
            if f.name not in left_out}  # fmt: skip


def _declaration(found: dict[str, Any]) -> ModelDeclaration:
    from shoal.models import ModelDeclaration

    tuples = {n: tuple(found[n]) for n in _TUPLES if found[n] is not None}
    return ModelDeclaration(**found | tuples, function=_declaration)

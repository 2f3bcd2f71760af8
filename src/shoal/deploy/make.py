"""Making a bundle of a registered version."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.deploy.bundle import Bundle, file_hash, seal
from shoal.deploy.closure import (
    Closure,
    closure_of,
    hidden_modules,
    locked_hashes,
    requirements_text,
)
from shoal.deploy.dockerfile import IGNORED, dockerfile
from shoal.deploy.probe import asked_for
from shoal.deploy.samples import make_samples
from shoal.deploy.sbom import bill_of_materials
from shoal.deploy.wheel import write_wheel
from shoal.errors import DeployError

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.tracking import Tracker

__all__ = ["make_bundle"]

_ROUNDS = 8


def make_bundle(
    tracker: Tracker,
    ref: str,
    out: Path,
    *,
    rows: pa.Table | None = None,
    locks: Sequence[Path] = (),
    base: str | None = None,
    server: dict[str, Any] | None = None,
    trust_pickle: bool = False,
) -> Bundle:
    """Makes the bundle of one registered version; the same version gives the same bytes.

    Args:
        tracker: Where it is registered.
        ref: ``delay``, ``delay@champion`` or ``delay/3``.
        out: The folder that the bundle's folder goes into.
        rows: Rows for the sample requests, with the columns and types of the signature; None takes
            the version's input example.
        locks: Folders in or above which a uv.lock may have the packages' hashes.
        base: Base image of the Dockerfile.
        server: Settings of the server, over the usual ones.
        trust_pickle: Unpickle members that were pickled.

    Returns:
        The bundle, in ``out/<model>-<version>-<start of the digest>``.

    Raises:
        DeployError: The registered artifact was changed, or its server does not answer as it does.
        TrackingError: There is no such version.
    """
    version = tracker.resolve(ref)
    pinned = f"{version.name}/{version.version}"
    source = tracker.fleet_folder(version)
    artifact = {name: file_hash(source / name) for name in ("fleet.json", "members.arrow")}
    _unchanged(version.tags, artifact, pinned)
    fleet = tracker.fleet(pinned, trust_pickle=trust_pickle)
    inputs = tracker.input_types(pinned)
    example = tracker.input_example(pinned) if rows is None else rows
    out.mkdir(parents=True, exist_ok=True)
    with _made_aside(out) as folder:
        (folder / "artifact").mkdir()
        for name in artifact:
            shutil.copyfile(source / name, folder / "artifact" / name)
        if card := tracker.card(pinned):
            (folder / "model_card.md").write_text(card, encoding="utf-8")
        settings = {"port": 8080, "workers": 1, "max_rows": 100_000, **(server or {})}
        _json(folder / "server.json", settings)
        samples = make_samples(fleet, inputs, example, version.name)
        _json(folder / "samples.json", samples)
        header = fleet.header
        content: dict[str, Any] = {
            "model": version.name,
            "version": version.version,
            "run_id": version.run_id,
            "fleet_version": header.fleet_version,
            "table": header.table,
            "table_version": header.table_version,
            "members": fleet.segments,
            "signature": {
                "inputs": dict(inputs),
                "task": header.task,
                "interval": header.interval,
            },
            "python": ".".join(platform.python_version_tuple()[:2]),
            "platform": f"{platform.system().lower()}-{platform.machine()}",
            "pickled": trust_pickle,
            "artifact": artifact,
        }
        closure = _closure(folder, content)
        content |= _environment(folder, closure, content, locks, base, settings["port"])
        bundle = seal(folder, content)
        final = out / f"{version.name}-{version.version}-{bundle.digest[:12]}"
        if not final.exists():
            folder.replace(final)
    return Bundle.open(final)


@contextlib.contextmanager
def _made_aside(out: Path) -> Iterator[Path]:
    """A new folder beside the final one: a bundle is there as a whole, or not."""
    folder = Path(tempfile.mkdtemp(prefix=".bundle-", dir=out))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unchanged(tags: Mapping[str, str], artifact: dict[str, str], pinned: str) -> None:
    """Compares the artifact with what was registered."""
    expected = tags.get("shoal.artifact")
    if expected is not None and expected != artifact["members.arrow"]:
        raise DeployError(
            f"The artifact of {pinned} was changed after it was registered: members.arrow has "
            f"SHA-256 {artifact['members.arrow'][:12]}…, registered was {expected[:12]}….",
            hint=f"Find out who wrote to it; shoal reproduce {pinned} makes it again.",
        )


def _closure(folder: Path, content: dict[str, Any]) -> Closure:
    """Adds what the server asks for, until it answers all samples with nothing else in sight."""
    bundle = seal(folder, content)
    roots: set[str] = set()
    for _ in range(_ROUNDS):
        closure = closure_of(sorted(roots))
        missing = asked_for(bundle, hidden_modules(closure))
        if not missing:
            return closure
        roots |= missing
    raise DeployError(f"The server of '{bundle.model}' asks for ever more: {sorted(roots)}.")


def _environment(
    folder: Path,
    closure: Closure,
    content: dict[str, Any],
    locks: Sequence[Path],
    base: str | None,
    port: int,
) -> dict[str, Any]:
    """Writes requirements, wheel, SBOM and Dockerfile."""
    pins = [f"{name}=={number}" for name, number in closure.versions.items()]
    wheel = write_wheel(folder / "wheels", pins)
    own = file_hash(wheel)
    hashes, lock = locked_hashes(closure, locks)
    text = requirements_text(closure, hashes, wheel.relative_to(folder), own)
    (folder / "requirements.txt").write_text(text, encoding="utf-8")
    _json(folder / "sbom.json", bill_of_materials(closure, content, content["artifact"], own))
    image = dockerfile(
        base=base,
        python=content["python"],
        model=content["model"],
        version=content["version"],
        port=port,
        hashed=lock is not None,
        pickled=content["pickled"],
    )
    (folder / "Dockerfile").write_text(image, encoding="utf-8")
    (folder / ".dockerignore").write_text(IGNORED, encoding="utf-8")
    return {
        "shoal": importlib.metadata.version("shoal"),
        "packages": len(closure.versions),
        "hashes": "uv.lock" if lock is not None else "none",
    }


def _json(path: Path, content: object) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False) + os.linesep
    path.write_text(text, encoding="utf-8")

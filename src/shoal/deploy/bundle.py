"""The bundle: one folder with all that serving one version of a model needs, named by its content.

.. code-block:: text

    delay-3-1f0c9a2b7e55/
      bundle.json         what it is, and each file's SHA-256; its own SHA-256 is the digest
      artifact/           the fleet: fleet.json, members.arrow
      requirements.txt    the serving closure, pinned, with hashes
      wheels/             Shoal itself, reduced to serving
      server.json         the server's settings
      samples.json        requests and the registry's answers to them
      sbom.json           CycloneDX
      Dockerfile, .dockerignore
      SHA256SUMS          for sha256sum -c
      rehearsal.json      written by the rehearsal; no part of the digest
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from shoal.errors import DeployError

__all__ = ["FORMAT", "MANIFEST", "REHEARSAL", "Bundle", "file_hash", "seal"]

FORMAT = 1
MANIFEST = "bundle.json"
REHEARSAL = "rehearsal.json"
_SUMS = "SHA256SUMS"
_OUTSIDE = {MANIFEST, REHEARSAL, _SUMS}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle, opened.

    Attributes:
        folder: Where it is.
        content: What ``bundle.json`` says.
        digest: SHA-256 of ``bundle.json``, and so of everything in the bundle.
    """

    folder: Path
    content: Mapping[str, Any]
    digest: str

    @classmethod
    def open(cls, folder: str | Path, *, check: bool = True) -> Bundle:
        """Opens a bundle.

        Args:
            folder: The bundle's folder.
            check: Compare each file with its checksum.

        Raises:
            DeployError: It is no bundle, or it was changed after it was made.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        try:
            text = path.read_bytes()
            content = json.loads(text)
        except FileNotFoundError:
            raise DeployError(
                f"{folder} is no bundle: it has no {MANIFEST}.",
                hint="Make one: shoal bundle MODEL --out DIR",
            ) from None
        except (OSError, ValueError) as error:
            raise DeployError(f"{path} cannot be read: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else content
            raise DeployError(
                f"{path} has format {found!r}; this version of Shoal reads format {FORMAT}.",
                hint="Make the bundle again: shoal bundle MODEL",
            )
        opened = cls(folder=folder, content=content, digest=hashlib.sha256(text).hexdigest())
        if check:
            opened.check()
        return opened

    def check(self) -> None:
        """Compares the files with their checksums.

        Raises:
            DeployError: A file is missing, changed or was added.
        """
        files: Mapping[str, str] = self.content["files"]
        for name, expected in files.items():
            path = self.folder / name
            if not path.is_file() or file_hash(path) != expected:
                state = "changed" if path.is_file() else "missing"
                raise DeployError(
                    f"{name} of the bundle {self.folder} is {state} since the bundle was made.",
                    hint=f"Make it again: shoal bundle {self.model}/{self.version}",
                )
        if added := _files(self.folder) - set(files):
            raise DeployError(
                f"The bundle {self.folder} has a file that it was not made with: {min(added)}.",
                hint="Remove it, or make the bundle again.",
            )

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.content["model"])

    @property
    def version(self) -> int:
        """Its registered version."""
        return int(self.content["version"])

    @property
    def artifact(self) -> Path:
        """The folder of the fleet."""
        return self.folder / "artifact"

    @property
    def inputs(self) -> Mapping[str, str]:
        """Input columns in order, each with its MLflow type name."""
        return dict(self.content["signature"]["inputs"])

    @cached_property
    def server(self) -> Mapping[str, Any]:
        """The server's settings."""
        found: Mapping[str, Any] = json.loads((self.folder / "server.json").read_text("utf-8"))
        return found

    @cached_property
    def samples(self) -> list[Mapping[str, Any]]:
        """The sample requests with their expected answers."""
        found: list[Mapping[str, Any]] = json.loads(
            (self.folder / "samples.json").read_text("utf-8")
        )
        return found

    @property
    def rehearsal(self) -> Mapping[str, Any] | None:
        """The report of the last rehearsal of exactly these bytes; None if there was none."""
        try:
            found = json.loads((self.folder / REHEARSAL).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("digest") == self.digest else None

    def size(self) -> int:
        """Bytes of all files."""
        return sum((self.folder / name).stat().st_size for name in self.content["files"])


def seal(folder: Path, content: Mapping[str, Any]) -> Bundle:
    """Writes the manifest and the checksums of a folder whose other files are written.

    Args:
        folder: The bundle's folder.
        content: What ``bundle.json`` says besides the files.
    """
    files = {name: file_hash(folder / name) for name in sorted(_files(folder))}
    text = json.dumps({"format": FORMAT, **content, "files": files}, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    sums = {**files, MANIFEST: file_hash(folder / MANIFEST)}
    lines = "".join(f"{value}  {name}\n" for name, value in sorted(sums.items()))
    (folder / _SUMS).write_text(lines, encoding="utf-8")
    return Bundle.open(folder, check=False)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> set[str]:
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {name for name in found if name not in _OUTSIDE}

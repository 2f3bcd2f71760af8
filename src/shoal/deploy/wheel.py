"""Shoal itself as a wheel for serving: the same modules, with the requirements of a server only.

A wheel is a zip archive of the modules and three files of metadata (PyPA's binary distribution
format), so that none of its build tools is needed, and the same modules give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import zipfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["write_wheel"]

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip archive knows


def write_wheel(folder: Path, requirements: Sequence[str]) -> Path:
    """Writes the wheel of the Shoal that runs.

    Args:
        folder: Where.
        requirements: What it requires instead of all that Shoal requires.

    Returns:
        The wheel. Its version has the local label ``serving``: it is not the one of the registry.
    """
    version = f"{importlib.metadata.version('shoal')}+serving"
    root = Path(__file__).parents[1]
    files = {
        f"shoal/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = f"shoal-{version}.dist-info"
    metadata = ["Metadata-Version: 2.4", "Name: shoal", f"Version: {version}"]
    metadata += ["Summary: Shoal, reduced to serving one bundle", "License-Expression: Apache-2.0"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requirements]
    files[f"{info}/METADATA"] = ("\n".join(metadata) + "\n").encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: shoal\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\nshoal = shoal.cli:main\n"
    record = [
        f"{name},{_digest(content)},{len(content)}" for name, content in sorted(files.items())
    ]
    files[f"{info}/RECORD"] = ("\n".join([*record, f"{info}/RECORD,,"]) + "\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"shoal-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files, key=lambda name: (".dist-info/" in name, name)):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return wheel


def _digest(content: bytes) -> str:
    encoded = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return "sha256=" + encoded.rstrip(b"=").decode()

"""The code and the environment of a run, kept so that it can be run again.

In a Git repository the commit is enough for what was committed; what was not is kept as a patch.
Elsewhere the project's source files are kept. Neither holds files that look like secrets.
"""

from __future__ import annotations

import functools
import io
import json
import os
import platform
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = [
    "THREADS",
    "cause_of_change",
    "changed_environment",
    "code_files",
    "environment",
    "git",
    "packages",
]

# New files of these kinds are code; data and notebooks' outputs are not.
_SOURCES = {".py", ".sql", ".R", ".r", ".toml", ".yml", ".yaml", ".txt", ".lock", ".cfg", ".ini"}
_SECRETS = (".env", ".pem", ".key", "id_rsa", "id_ed25519", "credentials", "secret", "token")
_MOST_BYTES, _MOST_FILES = 10_000_000, 2_000
# How many threads numerical libraries take, which may change the last bits of what they sum.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def git(folder: Path, *arguments: str, index: str | None = None) -> bytes | None:
    """Output of a Git command; None without Git, without a repository or when it fails.

    Args:
        folder: Where to run it.
        arguments: The command.
        index: A file to use as the index.
    """
    environment = os.environ | ({"GIT_INDEX_FILE": index} if index else {})
    try:
        done = subprocess.run(  # noqa: S603 - the arguments are this package's
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - the git that the person uses
            capture_output=True,
            timeout=60,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def code_files(folder: Path) -> dict[str, bytes]:
    """What a run keeps of its code and environment, by file name.

    Args:
        folder: The project's folder.

    Returns:
        ``code.json`` (``commit``, ``folder`` of the project in the repository, and ``kept``:
        ``commit``, ``patch``, ``files`` or why nothing is), ``environment.json``, and maybe
        ``code.patch`` or ``code.zip``.
    """
    found: dict[str, bytes] = {}
    top = git(folder, "rev-parse", "--show-toplevel")
    commit = git(folder, "rev-parse", "--verify", "HEAD")
    about: dict[str, Any] = {"commit": None, "folder": "."}
    # A project that the repository around it ignores, such as a demo, is in none of its commits.
    ignored = git(folder, "check-ignore", "--quiet", str(folder.resolve())) is not None
    if top is not None and commit is not None and not ignored:
        root = Path(top.decode().rstrip("\n"))
        about |= {
            "commit": commit.decode().strip(),
            "folder": os.path.relpath(folder.resolve(), root.resolve()),
            "kept": "commit",
        }
        patch = _patch(root)
        if patch is None or len(patch) > _MOST_BYTES:
            about["kept"] = "the uncommitted changes are too large to keep"
        elif patch:
            about["kept"] = "patch"
            found["code.patch"] = patch
    else:
        files = _archive(folder)
        about["kept"] = "files" if files is not None else "the source files are too large to keep"
        if files is not None:
            found["code.zip"] = files
    found["code.json"] = json.dumps(about, indent=1).encode()
    found["environment.json"] = json.dumps(environment(), indent=1).encode()
    return found


def environment() -> dict[str, Any]:
    """Python, packages, processor and threads of this process."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
        "packages": dict(packages()),
    }


@functools.cache
def packages() -> Mapping[str, str]:
    """The installed packages by name, with their versions; read once, which takes a while."""
    found = {str(each.metadata["Name"]).lower(): each.version for each in metadata.distributions()}
    return dict(sorted(found.items()))


@functools.cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _patch(root: Path) -> bytes | None:
    """All that differs from the last commit, new source files included; empty without changes."""
    if not git(root, "status", "--porcelain"):
        return b""
    with tempfile.TemporaryDirectory(prefix="shoal-index-") as folder:
        index = str(Path(folder) / "index")  # the person's own is left alone
        new = git(root, "ls-files", "--others", "--exclude-standard", "-z") or b""
        names = [n for n in new.decode("utf-8", "surrogateescape").split("\0") if n]
        names = [n for n in names if _is_source(Path(n))][:_MOST_FILES]
        if git(root, "read-tree", "HEAD", index=index) is None:
            return None
        git(root, "add", "--update", "--", ".", index=index)
        if names:
            git(root, "add", "--", *names, index=index)
        excluded = [f":(exclude,icase)**/*{word}*" for word in _SECRETS]
        return git(root, "diff", "--cached", "--binary", "HEAD", "--", ".", *excluded, index=index)


def _archive(folder: Path) -> bytes | None:
    content = io.BytesIO()
    total = count = 0
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _source_files(folder):
            total, count = total + path.stat().st_size, count + 1
            if total > _MOST_BYTES or count > _MOST_FILES:
                return None
            archive.write(path, path.relative_to(folder))
    return content.getvalue()


def _source_files(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        # Not into environments, caches, tables or hidden folders.
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "_"))
            and name not in {"node_modules", "mlruns"}
            and not (Path(path) / name / "pyvenv.cfg").exists()
            and not (Path(path) / name / "_delta_log").exists()
        )
        for name in sorted(files):
            file = Path(path) / name
            if _is_source(file) and file.is_file() and file.stat().st_size < _MOST_BYTES // 5:
                yield file


def _is_source(path: Path) -> bool:
    name = path.name.lower()
    return path.suffix in _SOURCES and not any(word in name for word in _SECRETS)


def cause_of_change(text: str) -> str:
    """A change of `changed_environment` as a cause: of packages, threads or hardware."""
    if text.startswith("processor "):
        return f"hardware: {text}"
    if text.startswith(("processors ", "threads ")):
        return f"thread count: {text}"
    return f"package: {text}"


def changed_environment(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two environments, the most telling first."""
    found = []
    if before.get("python") != now.get("python"):
        found.append(f"Python {before.get('python')} -> {now.get('python')}")
    old, new = before.get("packages", {}), now.get("packages", {})
    found += [
        f"{name} {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    found += [
        f"{name} {before.get(name)} -> {now.get(name)}"
        for name in ("processor", "processors", "threads")
        if name in before and before[name] != now.get(name)
    ]
    return found

"""The rehearsal: a bundle runs here as its container would elsewhere, and is signed off or not."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.deploy.bundle import REHEARSAL, Bundle
from shoal.errors import DeployError

__all__ = ["rehearse"]

_MIB = 2**20
_BUSY = 0.6  # share of what a replica can do that is planned for
_INSTALL_SECONDS = 900


def rehearse(
    bundle: Bundle,
    *,
    memory: int = 1024 * _MIB,
    cpus: float = 1.0,
    seconds: float = 3.0,
    rate: float = 100.0,
    cold_start: float = 30.0,
    by: str = "",
) -> dict[str, Any]:
    """Runs a bundle in a fresh environment, within limits and without network, and measures it.

    The report is written to ``rehearsal.json`` in the bundle, with the bundle's digest; a
    deployment asks for it.

    Args:
        bundle: The bundle.
        memory: Limit of its memory, in bytes.
        cpus: Limit of its CPU, in cores.
        seconds: Seconds of load.
        rate: Requests per second that a deployment should bear.
        cold_start: Seconds in which it must be ready.
        by: Who rehearses it.

    Returns:
        The report: ``passed``, ``failures``, ``cold_start_s``, ``memory_bytes``, ``load``,
        ``limits`` and ``proposal``.

    Raises:
        DeployError: The environment cannot be made.
    """
    bundle.check()
    # Beside the bundle, not in the temporary folder: that may be too small, and be hidden.
    with tempfile.TemporaryDirectory(
        prefix=".rehearsal-", dir=bundle.folder.absolute().parent
    ) as folder:
        scratch = Path(folder) / "tmp"
        scratch.mkdir()
        begun = time.perf_counter()
        python = _environment(bundle, Path(folder) / "venv")
        installed = time.perf_counter() - begun
        size = _size(Path(folder) / "venv")
        settings = {
            "bundle": str(bundle.folder.absolute()),
            "command": _command(bundle, python),
            "scratch": str(scratch),
            "memory": memory,
            "cpus": cpus,
            "seconds": seconds,
            "patience": max(4 * cold_start, 60),
        }
        done = subprocess.run(  # noqa: S603  (our own module)
            [sys.executable, "-m", "shoal.deploy.driver", json.dumps(settings)],
            capture_output=True,
            text=True,
            check=False,
            env=_without_proxies(),
        )
    try:
        report = json.loads(done.stdout)
    except ValueError:
        raise DeployError(
            f"The rehearsal itself failed ({done.returncode}): {done.stderr[-2_000:]}"
        ) from None
    found = _report(bundle, report, rate=rate, cold_start=cold_start)
    found |= {"environment_s": installed, "environment_bytes": size, "by": by}
    text = json.dumps(found, indent=1) + "\n"
    (bundle.folder / REHEARSAL).write_text(text, encoding="utf-8")
    return found


def _report(
    bundle: Bundle, measured: Mapping[str, Any], *, rate: float, cold_start: float
) -> dict[str, Any]:
    failures = list(measured["failures"])
    took = measured.get("cold_start_s")
    if took is not None and took > cold_start:
        failures.append(f"it was ready after {took:.1f} s, allowed are {cold_start:g} s")
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    return {
        "digest": bundle.digest,
        "model": bundle.model,
        "version": bundle.version,
        "at": now.isoformat(),
        "passed": not failures,
        **measured,
        "failures": failures,
        "proposal": None if failures else _proposal(measured, rate),
    }


def _proposal(measured: Mapping[str, Any], rate: float) -> dict[str, Any]:
    """Resources and replicas: memory by the peak, replicas by what one of them answered."""
    peak = int(measured["memory_bytes"])
    load, cpus = measured["load"], measured["limits"]["cpus"]
    each = float(load["requests_per_s"])
    replicas = max(2, math.ceil(rate / (_BUSY * each)))
    share = rate / replicas * float(load["cpu_s_per_request"]) / _BUSY
    return {
        "rate": rate,
        "replicas": replicas,
        "requests": {
            "cpu": f"{min(max(math.ceil(share * 20) * 50, 100), int(cpus * 1000))}m",
            "memory": f"{_rounded(peak * 1.2)}Mi",
        },
        "limits": {"cpu": f"{int(cpus * 1000)}m", "memory": f"{_rounded(peak * 1.6)}Mi"},
    }


def _rounded(size: float) -> int:
    return 32 * math.ceil(size / _MIB / 32)


def _command(bundle: Bundle, python: Path) -> list[str]:
    """What the image runs, on loopback."""
    from shoal.deploy.dockerfile import COMMAND

    program = str(python.parent / COMMAND[0])
    command = [program, *COMMAND[1:3], str(bundle.folder.absolute()), "--host", "127.0.0.1"]
    return [*command, *(["--trust-pickle"] if bundle.content["pickled"] else [])]


def _environment(bundle: Bundle, folder: Path) -> Path:
    """A new virtual environment with the bundle's requirements, and nothing else."""
    python = folder / "bin" / "python"
    hashed = bundle.content["hashes"] != "none"
    if uv := _uv():
        version = bundle.content["python"]
        steps = [
            [uv, "venv", "--quiet", "--no-project", "--python", version, folder],
            [uv, "pip", "install", "--quiet", "--python", python, "--compile-bytecode"],
        ]
    else:
        steps = [
            [sys.executable, "-m", "venv", folder],
            [python, "-m", "pip", "install", "--quiet"],
        ]
    steps[-1] += ["--no-deps", *(["--require-hashes"] if hashed else []), "-r", "requirements.txt"]
    for step in steps:
        done = subprocess.run(  # noqa: S603  (uv or pip, with the bundle's own files)
            [str(part) for part in step],
            cwd=bundle.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=_INSTALL_SECONDS,
        )
        if done.returncode:
            raise DeployError(
                "The bundle's environment cannot be made: "
                + (done.stderr or done.stdout).strip()[-2_000:],
                hint=f"Try it by hand: cd {bundle.folder}; pip install -r requirements.txt",
            )
    return python


def _uv() -> str | None:
    """Where uv is; it says so itself to what it runs."""
    return os.environ.get("UV") or shutil.which("uv")


def _size(folder: Path) -> int:
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def _without_proxies() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}

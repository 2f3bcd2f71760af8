"""The inside of a rehearsal: starts the server set apart, asks it, and prints what it measured.

It runs in a process of its own (``python -m shoal.deploy.driver SETTINGS``), because a process that
was cut off from the network stays so.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shoal.deploy.apart import cut_off, limits, read_only
from shoal.deploy.bundle import Bundle
from shoal.deploy.process import serving
from shoal.deploy.samples import replay
from shoal.errors import DeployError

__all__ = ["measure"]

_CONNECTIONS = 4


def measure(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Runs one rehearsal.

    Args:
        settings: ``bundle``, ``command``, ``scratch``, ``memory`` (bytes), ``cpus``, ``seconds`` of
            load, ``patience``.

    Returns:
        What was measured: times in seconds, memory in bytes.
    """
    bundle = Bundle.open(settings["bundle"])
    network = cut_off()
    scratch = Path(settings["scratch"])
    tempfile.tempdir = str(scratch)
    sealed = network is not None and read_only(scratch)
    held = limits(int(settings["memory"]), float(settings["cpus"]))
    report: dict[str, Any] = {
        "limits": {
            "memory_bytes": int(settings["memory"]),
            "memory_by": held.memory,
            "cpus": float(settings["cpus"]),
            "cpus_by": held.cpu,
            "network": f"none: {network}" if network else "not cut off: not allowed here",
            "file_system": "read-only" if sealed else "as it is: not allowed to change it here",
        },
        "failures": [],
    }
    environment = {
        "PATH": os.defpath,
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    try:
        with serving(
            settings["command"],
            environment=environment,
            patience=float(settings["patience"]),
            before=held.apply,
        ) as server:
            report["cold_start_s"] = server.seconds
            wrong, _ = replay(server.url, bundle.samples)
            report["replayed"] = len(bundle.samples)
            report["failures"] += wrong
            if not wrong:
                report["load"] = load = _load(server.url, bundle.samples, settings["seconds"])
                report["failures"] += load.pop("failures")
                load["cpu_s_per_request"] = _cpu(server.process.pid) / max(load["requests"], 1)
            report["memory_bytes"] = _peak(server.process.pid)
            report["memory_with_page_cache_bytes"] = held.peak()
            if report["failures"]:
                report["said"] = server.said()
    except DeployError as error:
        report["failures"].append(error.message)
    finally:
        held.close()
    return report


def _load(url: str, samples: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """One-row requests over a few connections: latencies as a client sees them."""
    singles = [s for s in samples if s["name"].startswith("row ")] or list(samples[:1])
    parts = urlsplit(url)
    until = time.perf_counter() + seconds
    times: list[float] = []
    failures: list[str] = []

    def ask() -> None:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        mine: list[float] = []
        try:
            while (begun := time.perf_counter()) < until:
                sample = singles[len(mine) % len(singles)]
                body = str(sample["body"]).encode()
                connection.request("POST", sample["path"], body, {"content-type": sample["type"]})
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    failures.append(f"status {answer.status} under load")
                    break
                mine.append(time.perf_counter() - begun)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"no answer under load ({error!r})")
        finally:
            connection.close()
            times.extend(mine)

    threads = [threading.Thread(target=ask) for _ in range(_CONNECTIONS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - begun
    times.sort()
    return {
        "connections": _CONNECTIONS,
        "requests": len(times),
        "requests_per_s": len(times) / spent,
        "p50_ms": 1e3 * times[len(times) // 2] if times else None,
        "p99_ms": 1e3 * times[int(len(times) * 0.99)] if times else None,
        "failures": failures[:1],
    }


def _cpu(pid: int) -> float:
    """CPU seconds that a process has used, with its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / float(os.sysconf("SC_CLK_TCK"))


def _peak(pid: int) -> int | None:
    """The largest resident set of a process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(json.loads(sys.argv[1]))) + "\n")

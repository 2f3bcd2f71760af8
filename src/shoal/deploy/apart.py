"""A process set apart as a container would be: no network, a read-only file system, limits.

Linux only, and as far as this process may: as root, or in a user namespace where those are allowed.
What could not be had is told, not hidden. Sources: unshare(2), mount(2), netdevice(7), the kernel's
documents on control groups, versions 1 and 2.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import math
import os
import resource
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Limits", "cut_off", "limits", "read_only"]

_NEWNS, _NEWUSER, _NEWNET = 0x00020000, 0x10000000, 0x40000000
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
_SIOCSIFFLAGS, _UP = 0x8914, 0x1
_CGROUPS = Path("/sys/fs/cgroup")
_RLIMIT = "RLIMIT_DATA"
_PERIOD = 100_000  # microseconds, the kernel's default


def _call(name: str, *arguments: object) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(getattr(libc, name)(*arguments) == 0)


def cut_off() -> str | None:
    """Puts this process, and what it starts, into a network of its own with loopback only.

    Returns:
        How, or None where it is not allowed.
    """
    user, group = os.getuid(), os.getgid()
    if _call("unshare", _NEWNET | _NEWNS):
        how = "network namespace"
    elif _call("unshare", _NEWUSER | _NEWNET | _NEWNS):
        with contextlib.suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        how = "network and user namespaces"
    else:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            request = struct.pack("16sh14x", b"lo", _UP)
            fcntl.ioctl(any_socket.fileno(), _SIOCSIFFLAGS, request)
        except OSError:
            return None
    return how


def read_only(scratch: Path) -> bool:
    """Makes the root file system read-only for this process, after `cut_off`.

    Args:
        scratch: A folder that gets an empty file system in memory, for temporary files.

    Returns:
        Whether it is.
    """
    private = _call("mount", b"none", b"/", None, _REC | _PRIVATE, None)
    if not private or not _call("mount", b"tmpfs", os.fsencode(scratch), b"tmpfs", 0, b"size=64m"):
        return False
    again = _BIND | _REMOUNT | _RDONLY
    if not _call("mount", b"none", b"/", None, again, None):
        return False
    with contextlib.suppress(OSError):
        probe = scratch.parent / ".written"
        probe.touch()
        probe.unlink()
        return False  # it lies on another file system than the root's
    return True


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How a process is held within its memory and CPU.

    Attributes:
        memory: By what its memory is limited.
        cpu: By what its share of the CPU is limited.
    """

    memory: str
    cpu: str
    _groups: tuple[Path, ...]
    _bytes: int
    _cores: tuple[int, ...]

    def apply(self) -> None:
        """To call in the process, before it becomes another program."""
        for group in self._groups:
            (group / "cgroup.procs").write_text(str(os.getpid()))
        if self.memory == _RLIMIT:
            resource.setrlimit(resource.RLIMIT_DATA, (self._bytes, self._bytes))
        if self._cores:
            os.sched_setaffinity(0, self._cores)

    def peak(self) -> int | None:
        """The most memory that it has used, with page cache; None where nothing counts it."""
        for group in self._groups:
            for name in ("memory.peak", "memory.max_usage_in_bytes"):
                with contextlib.suppress(OSError, ValueError):
                    return int((group / name).read_text())
        return None

    def close(self) -> None:
        """Removes what was made."""
        for group in self._groups:
            with contextlib.suppress(OSError):
                group.rmdir()


def limits(memory: int, cpus: float) -> Limits:
    """Limits by control groups where they may be made, else by resource limits and affinity.

    Args:
        memory: Bytes.
        cpus: Cores, such as 0.5.
    """
    quota = str(int(cpus * _PERIOD))
    groups: list[Path] = []
    by_memory, by_cpu = _RLIMIT, ""
    if group := _group("", {"memory.max": str(memory)}):
        groups.append(group)
        by_memory = "cgroup v2"
        _write(group, {"memory.swap.max": "0"})
        if _write(group, {"cpu.max": f"{quota} {_PERIOD}"}):
            by_cpu = "cgroup v2"
    elif group := _group("memory", {"memory.limit_in_bytes": str(memory)}):
        groups.append(group)
        by_memory = "cgroup v1"
    quotas = {"cpu.cfs_period_us": str(_PERIOD), "cpu.cfs_quota_us": quota}
    if not by_cpu and (group := _group("cpu", quotas)):
        groups.append(group)
        by_cpu = "cgroup v1"
    cores = () if by_cpu else tuple(sorted(os.sched_getaffinity(0))[: max(math.ceil(cpus), 1)])
    return Limits(
        memory=by_memory,
        cpu=by_cpu or f"{len(cores)} cores by affinity",
        _groups=tuple(groups),
        _bytes=memory,
        _cores=cores,
    )


def _group(controller: str, settings: Mapping[str, str]) -> Path | None:
    """A new control group of a version 1 controller, or of version 2 for an empty name."""
    root = _CGROUPS / controller
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            for parent in (root / path.lstrip("/"), root):
                group = parent / f"shoal-{os.getpid()}"
                try:
                    group.mkdir()
                except OSError:
                    continue
                if _write(group, settings):
                    return group
                with contextlib.suppress(OSError):
                    group.rmdir()
    return None


def _write(group: Path, settings: Mapping[str, str]) -> bool:
    try:
        for name, value in settings.items():
            if not (group / name).exists():
                return False
            (group / name).write_text(value)
    except OSError:
        return False
    return True

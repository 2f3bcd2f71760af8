"""Who refreshes a lake now: a lock of the system on a disk, a lease in an object store.

A lease is one object that its holder writes again every few seconds, each time on the condition
that it is still its own. Who finds it silent for a minute, by the store's own clock, takes it over
on the same condition. Commits do not rely on it: they are conditional writes themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from shoal.errors import Conflict, RetryableError, TableError
from shoal.lake.disk import disk_error
from shoal.store import Store
from shoal.store.objects import ObjectStore

__all__ = ["holding"]

_NAME = ".shoal.lock"
_LEASE_SECONDS = 60.0
_RENEW_SECONDS = 10.0


@contextlib.contextmanager
def holding(store: Store) -> Iterator[None]:
    """Holds a lake's root for one writer.

    Raises:
        Conflict: Another process holds it.
    """
    if isinstance(store, ObjectStore):
        with _leased(store):
            yield
    else:
        with _locked(Path(store.root)):
            yield


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    import fcntl

    with _lock_file(root) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise _busy(f"process {holder}", str(root)) from None
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), str(os.getpid()).encode())
        yield


def _lock_file(root: Path) -> TextIO:
    path = root / _NAME
    try:
        root.mkdir(parents=True, exist_ok=True)
        return path.open("a+")
    except OSError as error:
        raise disk_error(error, path) or error from error


def _busy(holder: str, root: str, more: str = "") -> Conflict:
    return Conflict(
        f"Another run ({holder}) is writing to {root}.",
        hint=f"Wait until it ends, then run again; nothing was changed.{more}",
    )


@contextlib.contextmanager
def _leased(store: ObjectStore) -> Iterator[None]:
    own = uuid.uuid4().hex
    tag = _take(store, _note(own, 0))
    done = threading.Event()

    def renew() -> None:
        nonlocal tag
        count = 0
        while not done.wait(_RENEW_SECONDS):
            count += 1
            # A store that does not answer now may do so next time; a lost lease is not taken back.
            with contextlib.suppress(RetryableError, TableError):
                try:
                    tag = store.put_tagged(_NAME, _note(own, count), tag)
                except FileExistsError:
                    return

    keeper = threading.Thread(target=renew, name="shoal-lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        with contextlib.suppress(FileNotFoundError, RetryableError, TableError):
            if json.loads(store.read(_NAME)).get("id") == own:
                store.delete([_NAME])


def _note(own: str, count: int) -> bytes:
    """What a lease says; other bytes each time, since S3's tag is a hash of them."""
    return json.dumps(
        {"process": os.getpid(), "host": socket.gethostname(), "id": own, "count": count}
    ).encode()


def _take(store: ObjectStore, note: bytes) -> str:
    """Takes the lease; gives its tag."""
    for _ in range(3):
        try:
            return store.put_tagged(_NAME, note)
        except FileExistsError:
            pass
        try:
            held, tag = store.read_tagged(_NAME)
        except FileNotFoundError:  # given back just now
            continue
        found = store.stat(_NAME)
        if found is None:
            continue
        silent = _now(store) - found.seconds
        holder, dead = _holder(held)
        if not dead and silent < _LEASE_SECONDS:
            left = _LEASE_SECONDS - silent
            more = f" If it was killed, its lease ends in {left:.0f} s."
            raise _busy(holder, store.root, more)
        with contextlib.suppress(FileExistsError):  # somebody else took it over
            return store.put_tagged(_NAME, note, tag)
    raise _busy("just begun", store.root)


def _holder(held: bytes) -> tuple[str, bool]:
    """Who holds a lease, and whether that is a process of this machine that is gone."""
    try:
        note = json.loads(held)
        process, host = int(note["process"]), str(note["host"])
    except (ValueError, KeyError, TypeError):
        return "unknown", False
    if host != socket.gethostname():
        return f"process {process} on {host}", False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return f"process {process}", True
    except PermissionError:
        pass
    return f"process {process}", False


def _now(store: ObjectStore) -> float:
    """The store's time, so that clocks of machines need not agree."""
    name = f"_shoal/clock-{uuid.uuid4().hex}"
    store.write(name, b"")
    try:
        found = store.stat(name)
        assert found is not None
        return found.seconds
    finally:
        store.delete([name])

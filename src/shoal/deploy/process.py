"""A server of a bundle in a process of its own, for the probe and the rehearsal."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shoal.errors import DeployError

__all__ = ["Serving", "serving"]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A server that answers.

    Attributes:
        url: Where.
        process: Its process.
        seconds: From the start of the process until it was ready.
        said: Gives the end of what it wrote to its standard error.
    """

    url: str
    process: subprocess.Popen[bytes]
    seconds: float
    said: Callable[[], str]


@contextlib.contextmanager
def serving(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    patience: float = 120.0,
    before: Callable[[], None] | None = None,
) -> Iterator[Serving]:
    """Starts a server, and stops it at the end.

    Args:
        command: Its command line; it prints ``Serving at URL`` when it accepts connections.
        environment: Its environment; None inherits this one.
        patience: Seconds until it must be ready.
        before: Called in the new process before it becomes the server.

    Raises:
        DeployError: It ended, or was not ready in time; the message has the end of its output.
    """
    with tempfile.TemporaryFile("w+") as errors:

        def said() -> str:
            errors.seek(0)
            return errors.read()[-2_000:].strip() or "it said nothing"

        begun = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603  (a command of our own)
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            env=None if environment is None else dict(environment),
            preexec_fn=before,  # noqa: PLW1509  (no thread is running yet)
        )
        assert process.stdout is not None
        try:
            url = _url(process, begun + patience)
            if url is None:
                process.kill()
                process.wait()
                code = process.returncode
                why = "was killed" if code in (-9, 137) else f"ended with {code}"
                raise DeployError(
                    f"The server {why} before it was ready after "
                    f"{time.perf_counter() - begun:.1f} s: {said()}",
                    hint=f"Start it by hand: {' '.join(command)}" if len(command) < 12 else None,
                )
            yield Serving(url=url, process=process, seconds=time.perf_counter() - begun, said=said)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            process.stdout.close()


def _url(process: subprocess.Popen[bytes], until: float) -> str | None:
    """What the server says when it listens; None when it ended or was too slow."""
    assert process.stdout is not None
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := until - time.perf_counter()) > 0 and selector.select(left):
            part = os.read(process.stdout.fileno(), 65_536)
            said += part
            if found := re.search(rb"^Serving at (\S+)\s", said, re.MULTILINE):
                return found[1].decode()
            if not part:
                return None
    return None

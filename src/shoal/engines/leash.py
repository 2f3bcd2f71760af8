"""Runs a server for as long as the process that started it lives.

Run by its path with a command, so that nothing else is imported: standard input is the leash. When
the other end closes it, or dies and so lets go, the server is ended, with all that it has started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

__all__: list[str] = []

_PATIENCE = 10.0


def _hold(server: subprocess.Popen[bytes]) -> None:
    while sys.stdin.buffer.read(1):
        pass
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, kind)
            server.wait(_PATIENCE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def main() -> int:
    """Starts the command of the arguments; gives its exit code."""
    server = subprocess.Popen(  # noqa: S603 - the parent says which
        sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True
    )
    threading.Thread(target=_hold, args=(server,), daemon=True).start()
    return server.wait()


if __name__ == "__main__":
    sys.exit(main())

"""Running the web application until it is told to stop."""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from shoal.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    import uvicorn
    from starlette.applications import Starlette

__all__ = ["listen", "serve"]


def serve(
    app: Starlette,
    host: str = "127.0.0.1",
    port: int = 5001,
    *,
    listener: socket.socket | None = None,
    ready: Callable[[str], None] | None = None,
    grace: int = 30,
    header_seconds: float = 10.0,
    certificate: str | None = None,
    private_key: str | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM, then lets running requests finish and returns.

    Args:
        app: What `create_app` made.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        listener: A socket that listens already, instead of ``host`` and ``port``.
        ready: Called once with the URL, when connections are accepted.
        grace: Seconds that running requests may take after the signal.
        header_seconds: How long a request's head may take to arrive, before it is cut off.
        certificate: File with the TLS certificate chain (PEM); None speaks plain HTTP.
        private_key: File with its key, where the certificate's file does not hold it.

    Raises:
        Unavailable: The address cannot be listened on, for example because it is in use.
    """
    import uvicorn

    from shoal.serving.connection import patient_protocol

    listener = listener or listen(host, port)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace,
        lifespan="off",
        http=patient_protocol(header_seconds, getattr(app.state, "quick", None)),
        ssl_certfile=certificate,
        ssl_keyfile=private_key,
    )
    bound = listener.getsockname()
    shown = f"[{bound[0]}]" if listener.family == socket.AF_INET6 else bound[0]
    server = uvicorn.Server(config)
    gc.collect()
    gc.freeze()  # models and libraries stay: a collection need not look at them again
    with listener, _stopped_by_signals(server):
        if ready is not None:
            # The socket listens already: a request that comes now waits for the first accept.
            ready(f"http{'s' if certificate else ''}://{shown}:{bound[1]}")
        server.run(sockets=[listener])


@contextlib.contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """SIGINT and SIGTERM stop the server, also before uvicorn's own handlers are in place.

    uvicorn raises the signal again after it has stopped; it then only meets these handlers, so
    that `serve` returns instead of the process dying of the signal that it has obeyed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def stop(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: Address to listen on.
        port: Port; 0 takes a free one.

    Raises:
        Unavailable: The address cannot be listened on, for example because it is in use.
    """
    listener = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio switches Nagle's algorithm off only where the protocol is given, which
        # socket.create_server does not: each answer on an open connection would take 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        if listener is not None:
            listener.close()
        raise Unavailable(
            f"Cannot listen on {host}:{port}: {error}.",
            hint="Choose another port: shoal serve --port 0 takes a free one.",
        ) from error
    return listener

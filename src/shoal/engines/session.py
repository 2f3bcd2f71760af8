"""Sessions on an engine: embedded Sail, or any Spark Connect endpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Self

from shoal.errors import EngineError

if TYPE_CHECKING:
    from types import TracebackType

    from pysail.spark import SparkConnectServer
    from pyspark.sql.connect.proto import Plan
    from pyspark.sql.connect.session import SparkSession

    from shoal.engines.requests import Interceptor

__all__ = ["Engine", "connect"]


class Engine:
    """One Spark Connect session and, for the embedded engine, the server behind it.

    Args:
        spark: The session.
        interceptor: What sees the session's requests.
        server: The Sail server of this process, stopped with the session; None for a remote one.
    """

    def __init__(
        self,
        spark: SparkSession,
        interceptor: Interceptor,
        server: SparkConnectServer | None = None,
    ) -> None:
        self.spark = spark
        self._server = server
        self._interceptor = interceptor

    @property
    def embedded(self) -> bool:
        """True for Sail in this process."""
        return self._server is not None

    @contextlib.contextmanager
    def resolving(self, resolve: Callable[[Plan], Plan] | None) -> Iterator[None]:
        """While open, what this thread asks about plans is asked about rewritten ones.

        Rows are refused meanwhile, and this session is the thread's active one, which
        pandas-on-Spark and ``SparkSession.getActiveSession`` look for.

        Args:
            resolve: Gives the plan to ask about; None asks, and executes, as usual.
        """
        active = type(self.spark)._active_session
        before = getattr(active, "session", None)
        active.session = self.spark
        try:
            with self._interceptor.resolving(resolve):
                yield
        finally:
            active.session = before

    def keep_interrupts(self) -> None:
        """Makes Ctrl-C Python's again, should the embedded engine have taken it meanwhile."""
        if self.embedded:
            _keep_interrupts()

    def close(self) -> None:
        """Ends the session and the embedded server."""
        with contextlib.suppress(Exception):
            if self._server is not None:  # a server in this process comes back by no retry
                self.spark.client.set_retry_policies([])
            self.spark.stop()
        if self._server is not None:
            self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextlib.contextmanager
def _no_doctest() -> Iterator[None]:
    """Lets pyspark be imported under ``python -c``, which it takes for its own doctests."""
    main = sys.modules["__main__"]
    nameless = not hasattr(main, "__file__") and getattr(main, "__spec__", None) is None
    if nameless:
        main.__file__ = "<command>"
    try:
        yield
    finally:
        if nameless:
            del main.__file__


def connect(url: str = "embedded") -> Engine:
    """Opens a session.

    Args:
        url: ``embedded``, or a Spark Connect URL such as ``sc://host:15002``.

    Raises:
        EngineError: The engine cannot be started or reached.
    """
    server = None
    if url == "embedded":
        # Sail reads these once, when its library is loaded. Level 1 is a quarter faster to write
        # than its default of 3, and 1% larger.
        os.environ.setdefault("RUST_LOG", "error")
        os.environ.setdefault("SAIL_PARQUET__COMPRESSION", "zstd(1)")
        from pysail.spark import SparkConnectServer

        server = SparkConnectServer(ip="127.0.0.1", port=0)
        server.start(background=True)
        address = server.listening_address
        if address is None:
            raise EngineError("The embedded engine did not start: it is listening nowhere.")
        url = f"sc://127.0.0.1:{address[1]}"
    elif not url.startswith("sc://"):
        raise EngineError(
            f"'{url}' is no engine.",
            hint="Use 'embedded', or a Spark Connect URL such as sc://localhost:15002.",
        )
    with _no_doctest():
        from pyspark.sql.connect.client import DefaultChannelBuilder
        from pyspark.sql.connect.session import SparkSession

        from shoal.engines.requests import Interceptor

    try:
        channel = DefaultChannelBuilder(url)
        interceptor = Interceptor(embedded=server is not None)
        channel.add_interceptor(interceptor)
        spark = SparkSession.builder.channelBuilder(channel).create()
        spark.conf.set("spark.sql.session.timeZone", "UTC")
    except Exception as error:
        if server is not None:
            server.stop()
        raise EngineError(
            f"No Spark Connect session at {url}: {error}",
            hint="Check that the server runs there and speaks Spark Connect 4.",
        ) from error
    if server is not None:
        _keep_interrupts()
    return Engine(spark, interceptor, server)


def _keep_interrupts() -> None:
    """Gives Ctrl-C back to Python: Sail 0.7.2 takes it too, and ends its server at once.

    The run that it interrupts, or the notebook's next cell, would then wait for a dead server.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)

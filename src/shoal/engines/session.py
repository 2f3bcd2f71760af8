"""Sessions on an engine: embedded Sail, Apache Spark, or any Spark Connect endpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

from shoal.errors import EngineError, nearest
from shoal.store import is_url

if TYPE_CHECKING:
    from types import TracebackType

    from pysail.spark import SparkConnectServer
    from pyspark.sql.connect.proto import Plan
    from pyspark.sql.connect.session import SparkSession

    from shoal.engines.requests import Interceptor
    from shoal.engines.servers import LocalServer

__all__ = ["Engine", "connect", "engine_path"]

# Where a session tells functions that are given it alone whether its engine is Sail.
_SAIL = "_shoal_sail"

# Milliseconds between two tries of a request to a server that has gone: some 15 seconds in all,
# where pyspark's client would go on for ten minutes.
_TRIES, _LONGEST_WAIT = 6, 5_000


class Engine:
    """One Spark Connect session and, where Shoal started it, the server behind it.

    Args:
        spark: The session.
        interceptor: What sees the session's requests.
        server: The server that ends with the session: Sail in this process, or one beside it; None
            for one that somebody else runs.
        url: Where the session is.
        sail: The engine is Sail, not Apache Spark.
    """

    def __init__(
        self,
        spark: SparkSession,
        interceptor: Interceptor,
        server: SparkConnectServer | LocalServer | None = None,
        *,
        url: str,
        sail: bool,
    ) -> None:
        self.spark, self.url, self.sail = spark, url, sail
        self._server = server
        self._interceptor = interceptor
        self._analyst: Engine | None = None

    @property
    def embedded(self) -> bool:
        """True for Sail in this process."""
        return self.sail and self._server is not None and not self._beside

    @property
    def _beside(self) -> bool:
        from shoal.engines.servers import LocalServer

        return isinstance(self._server, LocalServer)

    @property
    def analyst(self) -> Engine:
        """An engine that explains plans as `shoal.engines.trace` reads them: this one, if Sail."""
        if self.sail:
            return self
        if self._analyst is None:
            self._analyst = connect()
        return self._analyst

    def check_folder(self, folder: Path | str) -> None:
        """Proves that the engine reads and writes the same folder as this process.

        Args:
            folder: The lake's, on a file system, or its URL.

        Raises:
            EngineError: It does not.
        """
        if not self.embedded:
            from shoal.engines.reach import check_folder

            check_folder(self.spark, self.url, folder)

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
        """Ends the session and the server behind it."""
        if self._analyst is not None:
            self._analyst.close()
        with contextlib.suppress(Exception):
            if self._server is not None:  # a server that ends now comes back by no retry
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
        url: ``embedded`` (Sail in this process), ``spark`` (Apache Spark, started on this machine),
            ``sail-cluster`` (Sail with several workers, started on this machine), or a Spark
            Connect URL such as ``sc://host:15002``.

    Raises:
        Unavailable: Nobody answers at the URL.
        EngineError: The engine cannot be started, is no Spark Connect 4, or has no Delta Lake.
    """
    with _no_doctest():
        import pyspark.sql.connect.client  # noqa: F401 - for what imports it below

    server: SparkConnectServer | LocalServer | None = None
    if url == "embedded":
        server, url = _embedded()
    elif url in ("spark", "sail-cluster"):
        from shoal.engines.servers import sail_cluster, spark_server

        server = spark_server() if url == "spark" else sail_cluster()
        url = server.url
    elif url.startswith("sc://"):
        from shoal.engines.reach import check_engine

        check_engine(url)
    else:
        names = ("embedded", "spark", "sail-cluster")
        close = nearest(url, names)
        raise EngineError(
            f"'{url}' is no engine." + (f" Did you mean '{close}'?" if close else ""),
            hint=f"Use {', '.join(names)}, or a Spark Connect URL such as sc://localhost:15002.",
        )
    try:
        return _session(url, server)
    except BaseException:
        if server is not None:
            server.stop()
        raise


def _embedded() -> tuple[SparkConnectServer, str]:
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
    return server, f"sc://127.0.0.1:{address[1]}"


def _session(url: str, server: SparkConnectServer | LocalServer | None) -> Engine:
    from pyspark.sql.connect.client import DefaultChannelBuilder
    from pyspark.sql.connect.client.retries import DefaultPolicy
    from pyspark.sql.connect.session import SparkSession

    from shoal.engines.reach import check_delta, shown
    from shoal.engines.requests import Interceptor

    channel = DefaultChannelBuilder(url)
    interceptor = Interceptor()
    channel.add_interceptor(interceptor)
    try:
        spark = SparkSession.builder.channelBuilder(channel).create()
        patience = DefaultPolicy(max_retries=_TRIES, max_backoff=_LONGEST_WAIT)
        spark.client.set_retry_policies([patience])
        spark.conf.set("spark.sql.session.timeZone", "UTC")
        ours = server is not None and not hasattr(server, "pid")
        # Sail has a version number of its own; Apache Spark says the one that it speaks.
        sail = ours or not _is_spark(spark)
    except Exception as error:
        raise EngineError(
            f"No Spark Connect session at {shown(url)}: {error}",
            hint="Check that the server runs there and speaks Spark Connect 4.",
        ) from error
    interceptor.sail = sail
    if not sail:
        check_delta(spark, url)
    if ours:
        _keep_interrupts()
    vars(spark)[_SAIL] = sail
    return Engine(spark, interceptor, server, url=url, sail=sail)


def engine_path(path: str, spark: SparkSession) -> str:
    """A path or URL as an engine must be told it.

    Sail 0.7.2 decodes ``%`` in URLs, and reads a file of the decoded name that does not exist as
    no rows.

    Args:
        path: As the store knows it.
        spark: A session that `connect` opened.
    """
    return path.replace("%", "%25") if is_url(path) and vars(spark).get(_SAIL, True) else path


def _is_spark(spark: SparkSession) -> bool:
    said = str(spark.sql("SELECT version()").collect()[0][0])
    return said.partition(" ")[0] == spark.version


def _keep_interrupts() -> None:
    """Gives Ctrl-C back to Python: Sail 0.7.2 takes it too, and ends its server at once.

    The run that it interrupts, or the notebook's next cell, would then wait for a dead server.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)

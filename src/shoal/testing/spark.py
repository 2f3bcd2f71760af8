"""The embedded engine that the tests of one process share."""

from __future__ import annotations

import atexit
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession

    from shoal.engines import Engine

__all__ = ["engine", "session"]


@cache
def engine() -> Engine:
    """The engine; started at the first use, ended with the process."""
    from shoal.engines import connect

    opened = connect()
    atexit.register(opened.close)
    return opened


def session() -> SparkSession:
    """A Spark session on the embedded engine, the same in the whole process.

    As a fixture::

        @pytest.fixture
        def spark():
            return session()

    Raises:
        EngineError: The engine cannot start.
    """
    return engine().spark

"""The engines that the folder's tests run over, each started once."""

import os
from collections.abc import Iterator

import pytest

from shoal.engines import Engine, connect
from shoal.engines.servers import sail_cluster, spark_server
from shoal.errors import EngineError

# Compiled once and lightly: these tests run everything for the first time.
LIGHT = {"spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1", "spark.driver.memory": "2g"}


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with connect() as opened:
        yield opened


@pytest.fixture(scope="session")
def spark_url() -> Iterator[str]:
    """A Spark Connect server; SHOAL_TEST_SPARK names one that runs already."""
    if given := os.environ.get("SHOAL_TEST_SPARK"):
        yield given
        return
    try:
        server = spark_server(settings=LIGHT)
    except EngineError as error:
        pytest.skip(str(error))
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    server = sail_cluster(2)
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def any_engine(request) -> Iterator[Engine]:
    """The engine that a test's parameter names: ``embedded``, ``sail-cluster`` or ``spark``."""
    if request.param == "embedded":
        yield request.getfixturevalue("engine")
        return
    name = "spark_url" if request.param == "spark" else "cluster_url"
    with connect(request.getfixturevalue(name)) as opened:
        yield opened

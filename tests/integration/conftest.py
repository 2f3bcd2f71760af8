"""One embedded engine and one Kafka broker for the folder's tests, and an empty project for each."""

from collections.abc import Iterator

import pytest

from kafka import Kafka, missing, running_kafka
from projects import SmallProject
from shoal.engines import Engine, connect


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with connect() as opened:
        yield opened


@pytest.fixture
def project(tmp_path, engine) -> SmallProject:
    return SmallProject(tmp_path / "project", engine)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory) -> Iterator[Kafka]:
    if why := missing():
        pytest.skip(why)
    with running_kafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def topic(kafka, request) -> str:
    """The name of a topic for this test alone; not made yet."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[-80:]

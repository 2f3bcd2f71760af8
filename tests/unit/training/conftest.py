"""One embedded engine for the folder's tests."""

from collections.abc import Iterator

import pytest

from shoal.engines import Engine, connect


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with connect() as opened:
        yield opened

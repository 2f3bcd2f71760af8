"""One embedded engine for the folder's tests, and an empty lake for each of them."""

from collections.abc import Iterator

import pytest

from shoal.engines import Engine, connect
from shoal.lake import Lake


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with connect() as opened:
        yield opened


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(tmp_path / "lake")

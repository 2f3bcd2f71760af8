"""What the tests of this folder share: one embedded engine, and one parent of forked runs."""

from collections.abc import Iterator

import pytest
from warm import Warm

from shoal.engines import Engine, connect


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with connect() as opened:
        yield opened


@pytest.fixture(scope="session")
def warm(tmp_path_factory) -> Iterator[Warm]:
    with Warm(tmp_path_factory.mktemp("runs")) as parent:
        yield parent

"""One embedded engine for the folder's tests, and an empty project for each of them."""

from collections.abc import Iterator

import pytest

from projects import SmallProject
from shoal.engines import Engine, connect


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with connect() as opened:
        yield opened


@pytest.fixture
def project(tmp_path, engine) -> SmallProject:
    return SmallProject(tmp_path / "project", engine)

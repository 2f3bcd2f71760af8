"""R for tests: a function of R called on Arrow tables, and what to do where there is no R."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from shoal.pipeline.rlang.declare import RFunction, RResult


def need_r() -> None:
    """Fails the test where R is missing, or skips it where that is meant."""
    if shutil.which("Rscript") is None:
        if os.environ.get("SHOAL_TEST_WITHOUT_R"):
            pytest.skip("there is no R, and SHOAL_TEST_WITHOUT_R is set")
        pytest.fail(
            "These tests need R: apt-get install --no-install-recommends r-base-core, "
            "or set SHOAL_TEST_WITHOUT_R=1 to go without them."
        )


def call_r(
    code: str,
    *tables: pa.Table,
    timeout: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> RResult:
    """What a function of R gives for tables."""
    names = tuple(f"table {number}" for number in range(len(tables)))
    with tempfile.TemporaryDirectory() as folder:
        function = RFunction(
            shown="code",
            script=code,
            target=None,
            names=("",) * len(tables),
            inputs=names,
            root=Path(folder),
            timeout=timeout,
        )
        return function(*tables, folder=Path(folder), stopped=stopped)

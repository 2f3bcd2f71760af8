"""Shoal: an open lakehouse for machine learning.

*A table is a version of files; a pipeline turns versions into versions; a model is a row; a
deployment is a pointer to a version.*

What a project's sources use stands here; `Workspace` is the whole of it from Python.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.errors import ShoalError
    from shoal.lake import Lake
    from shoal.models import Fleet, Search, model
    from shoal.pipeline import (
        arrow,
        asof_join,
        expect,
        expect_all,
        expect_all_or_drop,
        expect_all_or_fail,
        expect_or_drop,
        expect_or_fail,
        pandas,
        polars,
        predict,
        r,
        stream,
    )
    from shoal.serving import Client
    from shoal.workspace import Workspace, start_run

__version__ = "0.1.0"

__all__ = [
    "Client",
    "Fleet",
    "Lake",
    "Search",
    "ShoalError",
    "Workspace",
    "arrow",
    "asof_join",
    "expect",
    "expect_all",
    "expect_all_or_drop",
    "expect_all_or_fail",
    "expect_or_drop",
    "expect_or_fail",
    "model",
    "pandas",
    "polars",
    "predict",
    "r",
    "start_run",
    "stream",
]

_HOMES = {
    "Client": "shoal.serving",
    "Fleet": "shoal.models",
    "Lake": "shoal.lake",
    "Search": "shoal.models",
    "ShoalError": "shoal.errors",
    "Workspace": "shoal.workspace",
    "start_run": "shoal.workspace",
    "model": "shoal.models",
}


def __getattr__(name: str) -> Any:
    """Loads a public name from its room at the first use, so that importing Shoal costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'shoal' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES.get(name, "shoal.pipeline")), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

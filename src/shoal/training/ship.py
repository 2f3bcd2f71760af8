"""The job on its way to the worker processes, with the person's own modules."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType
from typing import Any

from shoal.errors import TrainingError
from shoal.models import ModelDeclaration
from shoal.models.code import is_own_file
from shoal.training.task import Job

__all__ = ["is_own", "is_own_file", "pickled", "pickled_job"]


def pickled_job(job: Job, declaration: ModelDeclaration) -> bytes:
    """The job as cloudpickle bytes; see `pickled`."""
    return pickled(job, declaration)


def pickled(job: Any, declaration: ModelDeclaration) -> bytes:
    """What workers do as cloudpickle bytes, with the person's own modules.

    Raises:
        TrainingError: The model's function holds something that cannot leave this process.
    """
    # In memory terms only: our own child process reads it and it is removed with the folder.
    import cloudpickle

    by_value = _modules_by_value(declaration)
    try:
        for module in by_value:
            cloudpickle.register_pickle_by_value(module)
        return bytes(cloudpickle.dumps(job))
    except Exception as error:
        raise TrainingError(
            f"Model {declaration.name!r} ({declaration.location}): its function cannot be sent "
            f"to worker processes: {type(error).__name__}: {error}",
            hint="make what it uses (connections, locks, sessions) inside the function",
        ) from error
    finally:
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)


def _modules_by_value(declaration: ModelDeclaration) -> list[ModuleType]:
    """The person's own modules that a worker may not find by their name.

    A project's folder is on the import path only while its files are run, so the modules that
    they imported from it travel as well.
    """
    own = str(getattr(declaration.function, "__module__", None))
    return [
        module
        for name, module in list(sys.modules.items())
        if getattr(module, "__name__", None) == name
        and is_own(module)
        and (name == own or not _importable(name))
    ]


def is_own(module: ModuleType) -> bool:
    """Whether a module is the person's own: a file, outside what is installed, not ``__main__``."""
    file = getattr(module, "__file__", None)
    return bool(file) and module.__name__ != "__main__" and is_own_file(str(file))


def _importable(name: str) -> bool:
    # Looked up anew: sys.modules would answer for a module whose folder has left the path.
    try:
        return importlib.machinery.PathFinder.find_spec(name.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False

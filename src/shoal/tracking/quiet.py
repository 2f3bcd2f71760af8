"""MLflow without chatter, telemetry or traces in the caller's process."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from shoal.errors import TrackingError, Unavailable
from shoal.tracking.places import azure_settings

__all__ = ["quietly", "tracking_uri"]

# Without these MLflow copies pyproject.toml and uv.lock of the *current folder* into each model.
_SETTINGS = {
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOG_UV_FILES": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would stand before a command's JSON
}

# A busy server (429, 5xx) is asked again after 2, 4, 8 and 16 seconds; MLflow's own default waits
# for minutes. What the person has set stays.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5"}
_LOGGERS = ("mlflow", "alembic")

# What SQLAlchemy 2.1 and MLflow's own type hints warn MLflow 3.17 of; its user can mend neither.
_WARNINGS = ("The ``noload`` loader", ".*Any type hint is inferred as AnyType")

_STORES = {"azure", "boto3", "botocore", "google"}

# MLflow's registry finds a logged model through the process-wide tracking URI (a TODO in its
# sqlalchemy_store.create_model_version), so two threads must not set it at the same time.
_switching = threading.Lock()


class _Muffler:
    """Log levels, warning filters and environment for MLflow calls.

    The first of several threads sets them and the last restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._levels: dict[str, int] = {}
        self._settings: dict[str, str | None] = {}
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            self._levels = {name: logging.getLogger(name).level for name in _LOGGERS}
            given = {n: v for n, v in _PATIENCE.items() if n not in os.environ} | _SETTINGS
            given |= azure_settings(os.environ)
            self._settings = {name: os.environ.get(name) for name in given}
            os.environ.update(given)
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)
            self._warnings = warnings.catch_warnings()
            self._warnings.__enter__()
            for message in _WARNINGS:
                warnings.filterwarnings("ignore", message)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            self._warnings.__exit__(None, None, None)
            for name, level in self._levels.items():
                logging.getLogger(name).setLevel(level)
            for name, value in self._settings.items():
                _restore(name, value)


# One per process, because what it guards is: log levels and the environment.
_muffler = _Muffler()


@contextlib.contextmanager
def quietly(doing: str) -> Iterator[None]:
    """Runs MLflow calls with only its errors logged, and turns its exceptions into Shoal's.

    Log levels, warning filters and environment are as before at the end. Telemetry is switched off
    for the process, because MLflow decides about it when it is imported.

    Args:
        doing: What is being tried, for the message: "register model 'delay'".

    Raises:
        TrackingError: MLflow refused.
        Unavailable: The tracking server or its database did not answer.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        # First, because MLflow sets the levels of its loggers when it is imported.
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError as error:
        if error.name not in {"mlflow", "sqlalchemy"}:
            raise
        raise TrackingError(
            f"Cannot {doing}: MLflow is not installed.", hint="pip install 'shoal[train]'"
        ) from error
    with _muffler:
        try:
            yield
        except MlflowException as error:
            raise _translated(error, doing) from error
        except SQLAlchemyError as error:  # MLflow lets those of its set-up through
            first = str(error).splitlines()[0]
            raise TrackingError(f"Cannot {doing}: the database says: {first}") from error
        except OSError as error:  # requests' connection errors too
            raise Unavailable(f"Cannot {doing}: {error}") from error
        except Exception as error:
            # Object stores' own errors have no root in common, and are not imported here.
            if type(error).__module__.partition(".")[0] not in _STORES:
                raise
            raise Unavailable(
                f"Cannot {doing}: the artifact store says: {error}",
                hint="Are its credentials set in this environment?",
            ) from error


@contextlib.contextmanager
def tracking_uri(uri: str) -> Iterator[None]:
    """Makes ``uri`` MLflow's process-wide tracking URI for one call, then undoes it exactly."""
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri

    with _switching:
        variable = os.environ.get("MLFLOW_TRACKING_URI")
        try:
            with _use_tracking_uri(uri):
                yield
        finally:
            _restore("MLFLOW_TRACKING_URI", variable)


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _translated(error: Any, doing: str) -> TrackingError | Unavailable:
    """Shoal's error for MLflow's, by MLflow's error code."""
    message = str(error.message).strip().splitlines()[0] if error.message else str(error)
    if error.error_code in {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"}:
        return Unavailable(f"Cannot {doing}: {message}")
    if "API request" in message and "failed with exception" in message:
        return Unavailable(f"Cannot {doing}: the tracking server did not answer ({message})")
    if "out-of-date database schema" in message:
        return TrackingError(
            f"Cannot {doing}: the tracking database was made by another MLflow version.",
            hint="Back it up, then: mlflow db upgrade URI",
        )
    return TrackingError(f"Cannot {doing}: MLflow says: {message}")

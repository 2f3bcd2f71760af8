"""A search's trials as a study of Optuna's own, for its plots and its dashboard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shoal.errors import TrainingError
from shoal.lake import Lake
from shoal.models import ModelDeclaration
from shoal.training.search.found import study_rows
from shoal.training.search.score import is_greater_better
from shoal.training.search.space import open_space
from shoal.training.search.studies import new_study, quiet
from shoal.training.search.trials import read_trials

if TYPE_CHECKING:
    import optuna

__all__ = ["copy_study", "optuna_study"]

_FEW = 10


def optuna_study(
    declaration: ModelDeclaration, lake: Lake, scope: str | None = None
) -> optuna.Study:
    """The newest search's trials, in memory; what is changed in it changes no trial.

    Args:
        declaration: The model; it declares an Optuna search.
        lake: Where its trials are.
        scope: Key of the segment or group, such as ``["UA"]``; None where all have one search.

    Raises:
        TrainingError: It declares no such search, or there is no trial of the scope.
    """
    import polars as pl

    name = declaration.name
    if declaration.search is None:
        raise TrainingError(
            f"Model '{name}' ({declaration.location}) declares no search.",
            hint="@shoal.model(search=shoal.Search(...))",
        )
    if declaration.search.is_hyperopt:
        raise TrainingError(
            f"The trials of '{name}' are Hyperopt's, which no study of Optuna's can hold.",
            hint=f"They are rows of shoal.trials_{name}.",
        )
    table = lake.table(f"shoal.trials_{name}")
    if not table.exists():
        raise TrainingError(f"'{name}' was never searched for.", hint=f"shoal search {name}")
    newest = table.scan().sort("recorded_at").tail(1).select("study").collect().item()
    rows = study_rows(table, newest)
    scopes = rows["scope"].unique().sort().to_list()
    if scope is None and len(scopes) == 1:
        scope = scopes[0]
    if scope not in scopes:
        some = ", ".join(scopes[:_FEW]) + (", ..." if len(scopes) > _FEW else "")
        raise TrainingError(
            f"'{name}' has {len(scopes):,} searches, one for each segment or group"
            + (f", and none of {scope}." if scope else "; name one.")
            + f" There are {some}",
            hint=f"--scope '{scopes[0]}'",
        )
    assert scope is not None
    with quiet():
        space = open_space(declaration)
        study: Any = new_study(
            space, greater=is_greater_better(declaration.metric), seed=declaration.seed, scope=scope
        )
        study.replay(read_trials(rows.filter(pl.col("scope") == scope)))
    made: optuna.Study = study.study
    for key, value in {
        "model": name,
        "metric": declaration.metric,
        "table": rows["table"][0],
        "table_version": int(rows["table_version"][0]),
        "scope": scope,
    }.items():
        made.set_user_attr(key, value)
    return made


def copy_study(study: optuna.Study, storage: str, name: str) -> int:
    """Writes a study into a storage of Optuna's; one of the same name is replaced.

    Args:
        study: From `optuna_study`.
        storage: URL of the database, as SQLAlchemy writes it, of Optuna's own.
        name: The study's name there.

    Returns:
        How many trials it has.

    Raises:
        TrainingError: The database cannot be opened, or is MLflow's.
    """
    import optuna

    with quiet(), _told(storage):
        found = optuna.storages.RDBStorage(storage)
        if name in optuna.get_all_study_names(found):
            optuna.delete_study(study_name=name, storage=found)
        optuna.copy_study(
            from_study_name=study.study_name,
            from_storage=study._storage,
            to_storage=found,
            to_study_name=name,
        )
        return len(optuna.load_study(study_name=name, storage=found).trials)


@contextlib.contextmanager
def _told(storage: str) -> Iterator[None]:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        shown = make_url(storage).render_as_string(hide_password=True)
        yield
    except RuntimeError as error:
        # Both keep their schema's version in a table of the same name.
        raise TrainingError(
            f"{shown} cannot be a storage of Optuna's: {error} MLflow's tables and Optuna's do not "
            "fit into one database schema.",
            hint="Give it one of its own: sqlite:///optuna.db, or a schema of PostgreSQL's by "
            "'postgresql+psycopg://.../db?options=-csearch_path%3Doptuna'",
        ) from error
    except (SQLAlchemyError, ImportError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrainingError(
            f"Optuna's storage cannot be opened: {said}", hint="--optuna sqlite:///optuna.db"
        ) from error

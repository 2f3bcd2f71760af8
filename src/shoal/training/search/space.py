"""Search spaces: what a trial's point, plain values that a table can keep, means as parameters."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

from shoal.errors import ModelError, TrainingError
from shoal.models import ModelDeclaration, Search
from shoal.models.search import check_parameter

__all__ = ["Point", "Space", "open_space", "plain_json"]

# Names to values: what a sampler chose.
Point = dict[str, Any]

_PLAIN = (str, int, float, bool, type(None))


class Space:
    """The space of one declaration's search.

    Args:
        declaration: The declaration.
        search: Its search.

    Attributes:
        search: The search.
        fixed: Optuna's distributions by name; None where a function suggests, or Hyperopt does.
    """

    def __init__(self, declaration: ModelDeclaration, search: Search) -> None:
        self.search = search
        self.fixed: dict[str, Any] | None = None
        self._where = f"Model {declaration.name!r} ({declaration.location})"
        self._function = declaration.function
        self._choices: dict[str, list[Any]] = {}
        if not search.is_hyperopt and not callable(search.space):
            self.fixed = {name: self._distribution(n, v) for name, (n, v) in self._items()}

    def _items(self) -> list[tuple[str, tuple[str, Any]]]:
        return [(name, (name, values)) for name, values in self.search.space.items()]

    def _distribution(self, name: str, values: Any) -> Any:
        from optuna.distributions import BaseDistribution, CategoricalDistribution

        if isinstance(values, BaseDistribution):
            return values
        if all(isinstance(value, _PLAIN) for value in values):
            return CategoricalDistribution(values)
        # Optuna keeps plain values only: of others their position.
        self._choices[name] = list(values)
        return CategoricalDistribution(range(len(values)))

    def suggest(self, trial: Any) -> Point:
        """What an Optuna trial chooses.

        Raises:
            ModelError: The space's function failed, or chose what a table cannot keep.
        """
        if self.fixed is None:
            self._called(trial)
        point: Point = dict(trial.params)
        if not all(isinstance(value, _PLAIN) for value in point.values()):
            raise ModelError(
                f"{self._where}: the search space suggests {point}; expected text, numbers, "
                "booleans or None.",
                hint="suggest a name, and look up what it stands for in the function",
            )
        return point

    def params(self, point: Point) -> dict[str, Any]:
        """Arguments for the declaration's function.

        Raises:
            ModelError: The space's function failed, or names no parameter of that function.
        """
        if self.search.is_hyperopt:
            from hyperopt import space_eval

            found = space_eval(self.search.space, dict(point))
        elif self.fixed is None:
            from optuna.trial import FixedTrial

            found = self._called(FixedTrial(point))
        else:
            found = {n: self._choices[n][v] if n in self._choices else v for n, v in point.items()}
        if not isinstance(found, Mapping) or not found:
            raise ModelError(
                f"{self._where}: the search space gave {found!r}; expected a dict of parameters."
            )
        for name in found:
            check_parameter(self._where, self._function, str(name))
        return {str(name): _python(value) for name, value in found.items()}

    def distributions(self, point: Point) -> dict[str, Any]:
        """Optuna's distributions that a point was chosen from."""
        if self.fixed is not None:
            return self.fixed
        from optuna.trial import FixedTrial

        trial = FixedTrial(point)
        self._called(trial)
        return dict(trial.distributions)

    def _called(self, trial: Any) -> Any:
        try:
            return self.search.space(trial)
        except Exception as error:
            raise ModelError(
                f"{self._where}: the search space's function raised {type(error).__name__}: {error}"
            ) from error


def open_space(declaration: ModelDeclaration) -> Space:
    """The space of a declaration's search.

    Raises:
        TrainingError: It declares no search, or the library that searches is not installed.
    """
    search = declaration.search
    if search is None:
        raise TrainingError(
            f"Model {declaration.name!r} ({declaration.location}) declares no search.",
            hint='@shoal.model(..., search=shoal.Search(space={"alpha": [0.1, 1.0, 10.0]}))',
        )
    library = "hyperopt" if search.is_hyperopt else "optuna"
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise TrainingError(
            f"Model {declaration.name!r}: its search needs {library}, which cannot be imported: "
            f"{error}.",
            hint=f"pip install 'shoal[{library}]'",
        ) from error
    return Space(declaration, search)


def plain_json(values: Mapping[str, Any]) -> str:
    """Values as JSON for people; what JSON cannot hold as text."""
    return json.dumps(values, default=str, ensure_ascii=False)


def _python(value: Any) -> Any:
    """A numpy number as Python's own: it reads better, and scikit-learn checks its type."""
    return value.item() if type(value).__module__ == "numpy" and value.ndim == 0 else value

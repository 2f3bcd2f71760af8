"""``[monitor]`` and ``[alerts]`` of ``shoal.toml``: what is watched, and who is told.

.. code-block:: toml

    [monitor]
    alpha = 0.05                  # share of false alarms, at most
    psi = 0.2                     # a column has drifted from here on
    error = 1.25                  # a model is too wrong from this multiple of its holdout's error
    checks = ["error"]            # of feature, prediction, error; default all three
    source = "table"              # or "inferences", what a server was asked (shoal serve --log)
    baseline = "training"         # or "previous", the window before
    weight = "kwh"                # segments count by the sum of this column
    raise_after = 1               # windows in a row that open an alarm
    clear_after = 1               # and close it

    [monitor.models.load]         # the same for one model
    columns = ["lag_48"]          # only these; default all of the model's features

    [monitor.tables."silver.readings"]   # a table, with or without a model
    by = ["region"]               # its segments; default the table as a whole
    baseline = "first"            # the rows that it had when it was first watched, or "previous",
                                  # or a version, such as "12"

    [alerts]
    webhook = "env:SHOAL_WEBHOOK" # a URL, or the environment variable that has it
    mail = { to = ["ops@example.org"], host = "mail.example.org", port = 587, user = "shoal" }
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shoal.errors import ProjectError
from shoal.project.keys import known_keys, table, text

__all__ = ["AlertSettings", "MonitorSettings", "Watched", "read_monitor"]

PASSWORD = "SHOAL_SMTP_PASSWORD"  # noqa: S105 (the variable's name)


CHECKS = ("feature", "prediction", "error")


@dataclass(frozen=True, kw_only=True)
class Watched:
    """How a model is watched.

    Args:
        alpha: Share of false alarms among all, at most.
        psi: Population stability index from which on a column has drifted.
        missing: Change of the share of missing values from which on a column has drifted.
        error: Multiple of the holdout's error from which on a model is too wrong.
        checks: What may raise an alarm: ``feature``, ``prediction``, ``error``.
        source: Where windows come from: ``table``, the model's, or ``inferences``, the log of
            ``shoal serve --log``.
        baseline: ``training``, the rows that the champion learned from, or ``previous``; of a
            table ``first``, ``previous`` or a version.
        weight: Column whose sum over a segment's new rows tells how much the segment matters.
        columns: Features to compare; None for all.
        raise_after: Windows in a row that open an alarm.
        clear_after: Windows in a row that close one.
        by: Columns of a table whose values make its segments.
    """

    alpha: float = 0.05
    psi: float = 0.2
    missing: float = 0.1
    error: float = 1.25
    checks: tuple[str, ...] = CHECKS
    source: str = "table"
    baseline: str = "training"
    weight: str | None = None
    columns: tuple[str, ...] | None = None
    raise_after: int = 1
    clear_after: int = 1
    by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AlertSettings:
    """Who is told; see `shoal.monitoring.Delivery`.

    Args:
        webhook: A URL, or ``env:NAME``.
        mail: ``to``, ``sender``, ``host``, ``port``, ``user``, ``plain``.
    """

    webhook: str | None = None
    mail: Mapping[str, Any] = field(default_factory=dict)

    def url(self) -> str | None:
        """The webhook's URL.

        Raises:
            ProjectError: It is said to be in an environment variable that is not set.
        """
        if self.webhook is None or not self.webhook.startswith("env:"):
            return self.webhook
        name = self.webhook.removeprefix("env:")
        if not (value := os.environ.get(name)):
            raise ProjectError(
                f"alerts.webhook of shoal.toml is in the environment variable {name}, which is "
                "not set.",
                hint=f"export {name}=https://...",
            )
        return value

    def password(self) -> str | None:
        """The password of the mail's user, from the environment."""
        return os.environ.get(PASSWORD)

    def __repr__(self) -> str:
        return f"AlertSettings(webhook={bool(self.webhook)}, mail={bool(self.mail)})"


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """What is watched, and who is told.

    Args:
        every: For models that have no settings of their own.
        models: Those that have.
        tables: Tables that are watched, by name.
        alerts: Who is told.
    """

    every: Watched = field(default_factory=Watched)
    models: Mapping[str, Watched] = field(default_factory=dict)
    tables: Mapping[str, Watched] = field(default_factory=dict)
    alerts: AlertSettings = field(default_factory=AlertSettings)

    def of(self, model: str) -> Watched:
        """How a model is watched."""
        return self.models.get(model, self.every)

    def of_table(self, table: str) -> Watched:
        """How a table is watched."""
        return self.tables.get(table) or _for_table(self.every)


def _for_table(every: Watched) -> Watched:
    """What holds for models, as far as it means something for a table."""
    baseline = every.baseline if every.baseline == "previous" else "first"
    return replace(every, baseline=baseline, columns=None, weight=None)


_KINDS: dict[str, tuple[type, ...]] = {
    "alpha": (float, int),
    "psi": (float, int),
    "missing": (float, int),
    "error": (float, int),
    "checks": (list,),
    "source": (str,),
    "baseline": (str,),
    "weight": (str,),
    "columns": (list,),
    "raise_after": (int,),
    "clear_after": (int,),
}
_OF_TABLES = (
    "alpha", "psi", "missing", "weight", "columns", "raise_after", "clear_after", "by", "baseline"
)  # fmt: skip
_MAIL = ("to", "sender", "host", "port", "user", "plain")


def read_monitor(found: Mapping[str, Any], file: Path) -> MonitorSettings:
    """Reads both tables.

    Args:
        found: The whole file, parsed.
        file: Its path, for messages.

    Raises:
        ProjectError: A key is unknown, or a value is wrong.
    """
    written = dict(table(found, "monitor", file))
    models = table(written, "models", file)
    tables = table(written, "tables", file)
    for own in ("models", "tables"):
        written.pop(own, None)
    every = _watched(Watched(), written, file, " in monitor")
    return MonitorSettings(
        every=every,
        models={
            name: _watched(every, values, file, f" in monitor.models.{name}")
            for name, values in _each(models, file, "models")
        },
        tables={
            name: _watched_table(every, values, file, f' in monitor.tables."{name}"')
            for name, values in _each(tables, file, "tables")
        },
        alerts=_alerts(table(found, "alerts", file), file),
    )


def _each(
    found: Mapping[str, Any], file: Path, kind: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, values in found.items():
        if not isinstance(values, dict):
            raise ProjectError(
                f"{file.name}: monitor.{kind}.{name} must hold keys and values; found {values!r}.",
                hint=f"Write [monitor.{kind}.{name}]",
            )
        if kind == "tables" and "." not in name:
            inner = next(iter(values), "table")
            raise ProjectError(
                f"{file.name}: monitor.tables.{name} is no table's name with its schema.",
                hint=f'Write [monitor.tables."{name}.{inner}"], with the quotes',
            )
        yield name, values


def _watched_table(base: Watched, found: Mapping[str, Any], file: Path, where: str) -> Watched:
    values = dict(found)
    by, baseline = values.pop("by", []), str(values.pop("baseline", "first"))
    known_keys(values, _OF_TABLES, file, where)
    if not isinstance(by, list) or not all(isinstance(name, str) for name in by):
        raise ProjectError(
            f"{file.name}: 'by'{where} must be a list of columns; found {by!r}.",
            hint='by = ["region"]',
        )
    if baseline not in ("first", "previous") and not baseline.isdigit():
        raise ProjectError(
            f"{file.name}: 'baseline'{where} is {baseline!r}, which cannot be.",
            hint='"first", "previous" or a version, such as "12"',
        )
    made = _watched(_for_table(base), values, file, where)
    return replace(made, by=tuple(by), baseline=baseline)


def _watched(base: Watched, found: Mapping[str, Any], file: Path, where: str) -> Watched:
    known_keys(found, tuple(_KINDS), file, where)
    for key, value in found.items():
        if not isinstance(value, _KINDS[key]) or isinstance(value, bool):
            expected = " or ".join(kind.__name__ for kind in _KINDS[key])
            raise ProjectError(
                f"{file.name}: '{key}'{where} must be {expected}; found {value!r}.",
                hint=f"Mend it in {file}.",
            )
    values = dict(found)
    for key in ("checks", "columns"):
        if key in values:
            values[key] = tuple(map(str, values[key]))
    made = replace(base, **values)
    wrong = {
        "alpha": not 0 < made.alpha < 1,
        "psi": made.psi <= 0,
        "missing": not 0 < made.missing <= 1,
        "error": made.error <= 1,
        "checks": not made.checks or not set(made.checks) <= set(CHECKS),
        "source": made.source not in ("table", "inferences"),
        "baseline": made.baseline not in ("training", "previous", "first"),
        "columns": made.columns == (),
        "raise_after": made.raise_after < 1,
        "clear_after": made.clear_after < 1,
    }
    for key, bad in wrong.items():
        if bad:
            raise ProjectError(
                f"{file.name}: '{key}'{where} is {getattr(made, key)!r}, which cannot be.",
                hint="0 < alpha < 1, psi > 0, 0 < missing <= 1, error > 1, checks of feature, "
                "prediction and error, source table or inferences, baseline training or previous, "
                "raise_after and clear_after 1 or more.",
            )
    return made


def _alerts(found: Mapping[str, Any], file: Path) -> AlertSettings:
    known_keys(found, ("webhook", "mail"), file, " in alerts")
    mail = table(found, "mail", file)
    known_keys(mail, _MAIL, file, " in alerts.mail")
    to = mail.get("to", [])
    if mail and not (isinstance(to, list) and to and all(isinstance(each, str) for each in to)):
        raise ProjectError(
            f"{file.name}: alerts.mail needs 'to', a list of addresses; found {to!r}.",
            hint='mail = { to = ["ops@example.org"], host = "mail.example.org" }',
        )
    return AlertSettings(
        webhook=text(found, "webhook", file),
        mail=mail,
    )

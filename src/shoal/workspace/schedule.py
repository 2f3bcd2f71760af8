"""Schedules for whoever keeps them: cron, systemd, Kubernetes, Airflow, Dagster.

Shoal is no scheduler. What is written here starts its commands, one after the other; the next is
started when the one before has ended well.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.errors import ProjectError

__all__ = ["STEPS", "Schedule", "schedule"]

# What can be scheduled, and the command line of each.
STEPS = {
    "run": ("run",),
    "tables": ("run", "--tables-only"),
    "train": ("train",),
    "score": ("score",),
    "monitor": ("monitor",),
    "retrain": ("monitor", "--retrain", "--promote"),
    "vacuum": ("vacuum",),
}

_NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_FIELDS = ("minute", "hour", "day", "month", "weekday")
_PART = re.compile(r"(?:\*|(\d+)(?:-(\d+))?)(?:/(\d+))?")
# What a Dagster op takes that only waits for another.
_AFTER = 'ins={"before": In(Nothing)}, '
_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When to do what.

    Attributes:
        name: Of the project; names the files, units and jobs.
        folder: The project's folder.
        when: Five fields as cron has them.
        commands: Command lines, in order.
    """

    name: str
    folder: Path
    when: str
    commands: tuple[tuple[str, ...], ...]


def schedule(
    kind: str,
    *,
    name: str,
    folder: Path,
    when: str,
    steps: Sequence[str],
    shoal: str = "shoal",
    profile: str | None = None,
    image: str = "shoal:latest",
) -> dict[str, str]:
    """The files of a schedule: name to text.

    Args:
        kind: ``cron``, ``systemd``, ``kubernetes``, ``airflow`` or ``dagster``.
        name: The project's name.
        folder: The project's folder, where the schedule is kept (in the image, for Kubernetes).
        when: Five fields as cron has them, in UTC, or ``@daily`` and the like.
        steps: Names of `STEPS`, in order.
        shoal: The ``shoal`` program.
        profile: Profile of ``shoal.toml``.
        image: Image with Shoal and the project, for Kubernetes.

    Raises:
        ProjectError: The time or a step cannot be.
    """
    more = ["--profile", profile] if profile else []
    given = Schedule(
        name=re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "shoal",
        folder=folder,
        when=_checked(when),
        commands=tuple((shoal, *_step(step), "--project", str(folder), *more) for step in steps),
    )
    if kind == "kubernetes":
        return _kubernetes(given, image)
    writers: dict[str, Callable[[Schedule], dict[str, str]]] = {
        "cron": _cron,
        "systemd": _systemd,
        "airflow": _airflow,
        "dagster": _dagster,
    }
    return writers[kind](given)


def _step(step: str) -> tuple[str, ...]:
    if step not in STEPS:
        raise ProjectError(
            f"'{step}' cannot be scheduled; {', '.join(STEPS)} can.",
            hint="shoal schedule cron --step run --step retrain",
        )
    return STEPS[step]


def _checked(when: str) -> str:
    fields = _NAMES.get(when.strip(), when).split()
    hint = "For example '30 5 * * *': every day at 5:30 UTC; or @hourly, @daily, @weekly."
    if len(fields) != len(_RANGES):
        raise ProjectError(
            f"'{when}' is no time: expected minute, hour, day, month and weekday.", hint=hint
        )
    for field, (low, high), word in zip(fields, _RANGES, _FIELDS, strict=True):
        for part in field.split(","):
            found = _PART.fullmatch(part)
            bounds = [int(each) for each in found.groups()[:2] if each] if found else []
            step = int(found[3]) if found and found[3] else 1
            if not found or step < 1 or bounds != sorted(bounds):
                raise ProjectError(f"'{field}' is no {word} of '{when}'.", hint=hint)
            if any(not low <= number <= high for number in bounds):
                raise ProjectError(
                    f"'{field}' is no {word} of '{when}': from {low} to {high}.", hint=hint
                )
    return " ".join(fields)


def _line(commands: Sequence[Sequence[str]]) -> str:
    return " && ".join(shlex.join(command) for command in commands)


def _cron(given: Schedule) -> dict[str, str]:
    log = shlex.quote(str(given.folder / "shoal.log"))
    # A percent sign ends a command of cron's, unless it is escaped.
    line = f"( {_line(given.commands)} ) >> {log} 2>&1".replace("%", r"\%")
    text = f"# Of the project {given.name}; times are UTC. Install: crontab {given.name}.cron\n"
    return {f"{given.name}.cron": f"{text}CRON_TZ=UTC\n{given.when} {line}\n"}


def _systemd(given: Schedule) -> dict[str, str]:
    starts = "\n".join(
        "ExecStart=" + " ".join(_unit_word(word) for word in command) for command in given.commands
    )
    name = f"shoal-{given.name}"
    service = f"""[Unit]
Description=Shoal: {given.name}

[Service]
Type=oneshot
{starts}
# 75: what failed may work when tried again, and nothing was lost.
RestartForceExitStatus=75
RestartSec=60
"""
    times = "\n".join(f"OnCalendar={text}" for text in _calendar(given.when))
    timer = f"""[Unit]
Description=Starts {name}.service

[Timer]
{times}
Persistent=true

[Install]
WantedBy=timers.target
"""
    return {f"{name}.service": service, f"{name}.timer": timer}


def _unit_word(word: str) -> str:
    word = word.replace("%", "%%").replace("$", "$$")
    return json.dumps(word, ensure_ascii=False) if re.search(r"[\s\"'\\]", word) else word


def _calendar(when: str) -> list[str]:
    """Cron's fields as systemd's calendar; a day and a weekday together mean either, as in cron."""
    minute, hour, day, month, weekday = (
        _spelled(field, low, high) for field, (low, high) in zip(when.split(), _RANGES, strict=True)
    )
    days = ""
    if weekday != "*":
        numbers = [int(each) for each in _numbers(when.split()[4], 0, 7)]
        days = ",".join(dict.fromkeys(_DAYS[number] for number in numbers))
    date = f"*-{month}-"
    time = f"{hour}:{minute}:00 UTC"
    if days and day != "*":
        return [f"{date}{day} {time}", f"{days} {date}* {time}"]
    return [f"{days} {date}{day} {time}".strip()]


def _spelled(field: str, low: int, high: int) -> str:
    if field == "*":
        return "*"
    return ",".join(f"{number:02}" for number in _numbers(field, low, high))


def _numbers(field: str, low: int, high: int) -> list[int]:
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        assert match is not None
        first = int(match[1]) if match[1] else low
        step = int(match[3]) if match[3] else 1
        last = int(match[2]) if match[2] else (first if match[1] and not match[3] else high)
        found.update(range(first, last + 1, step))
    return sorted(found)


def _kubernetes(given: Schedule, image: str) -> dict[str, str]:
    import yaml

    first: list[dict[str, Any]] = [
        {"name": f"step-{number}", "image": image, "command": list(command)}
        for number, command in enumerate(given.commands, 1)
    ]
    for container in first:
        container["volumeMounts"] = [{"name": "project", "mountPath": str(given.folder)}]
        container["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # One after the other: the last is the pod's container, those before prepare it.
        "initContainers": first[:-1],
        "containers": first[-1:],
        "volumes": [
            {"name": "project", "persistentVolumeClaim": {"claimName": f"{given.name}-project"}}
        ],
    }
    if not pod["initContainers"]:
        del pod["initContainers"]
    job = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {
            "name": f"shoal-{given.name}",
            "labels": {"app.kubernetes.io/name": "shoal", "app.kubernetes.io/instance": given.name},
        },
        "spec": {
            "schedule": given.when,
            "timeZone": "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            "jobTemplate": {"spec": {"backoffLimit": 2, "template": {"spec": pod}}},
        },
    }
    return {f"{given.name}-cronjob.yaml": yaml.safe_dump(job, sort_keys=False)}


def _airflow(given: Schedule) -> dict[str, str]:
    tasks = "\n".join(
        f"    {_variable(number)} = BashOperator(\n"
        f"        task_id={_task(command)!r}, bash_command={shlex.join(command) + ' '!r}\n    )"
        for number, command in enumerate(given.commands)
    )
    chain = " >> ".join(_variable(number) for number in range(len(given.commands)))
    order = f"\n    {chain}" if len(given.commands) > 1 else ""
    text = f'''"""Shoal: {given.name}."""

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG(
    dag_id={"shoal-" + given.name!r},
    schedule={given.when!r},
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={{"retries": 2, "retry_delay": timedelta(minutes=1)}},
):
{tasks}{order}
'''
    return {f"shoal_{given.name.replace('-', '_')}_dag.py": text}


def _dagster(given: Schedule) -> dict[str, str]:
    ops = "\n\n\n".join(
        f"@op({_AFTER if number else ''}"
        "retry_policy=RetryPolicy(max_retries=2, delay=60))\n"
        f"def {_task(command)}() -> None:\n"
        f"    subprocess.run({list(command)!r}, check=True)"
        for number, command in enumerate(given.commands)
    )
    call = ""
    for command in given.commands:
        call = f"{_task(command)}({f'before={call}' if call else ''})"
    name = f"shoal_{given.name.replace('-', '_')}"
    text = f'''"""Shoal: {given.name}."""

import subprocess

from dagster import Definitions, In, Nothing, RetryPolicy, ScheduleDefinition, job, op


{ops}


@job
def {name}() -> None:
    {call}


defs = Definitions(
    jobs=[{name}],
    schedules=[
        ScheduleDefinition(job={name}, cron_schedule={given.when!r}, execution_timezone="UTC")
    ],
)
'''
    return {f"{name}.py": text}


def _variable(number: int) -> str:
    return f"step_{number + 1}"


def _task(command: Sequence[str]) -> str:
    words = [word.strip("-") for word in command[1:] if word != "--project"]
    return "_".join(re.sub(r"\W", "_", word) for word in words[: command.index("--project") - 1])

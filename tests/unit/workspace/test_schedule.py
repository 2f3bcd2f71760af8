"""Schedules as the schedulers read them."""

from __future__ import annotations

import ast
import datetime as dt
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ProjectError
from shoal.workspace.schedule import _calendar, schedule

FOLDER = Path("/srv/it's 100%")


def written(kind: str, when: str = "30 5 * * 1-5", steps=("tables", "retrain")) -> dict[str, str]:
    return schedule(kind, name="Energy Use", folder=FOLDER, when=when, steps=steps)


def test_cron_escapes_what_would_end_the_command():
    (text,) = written("cron").values()
    line = text.splitlines()[-1]
    assert line.startswith("30 5 * * 1-5 ( shoal run --tables-only --project ")
    assert "100\\%" in line
    assert "&& shoal monitor --retrain --promote" in line


def test_systemd_starts_each_command_in_order():
    files = written("systemd")
    service = files["shoal-energy-use.service"]
    assert service.count("ExecStart=") == 2
    assert '"/srv/it\'s 100%%"' in service
    assert "OnCalendar=Mon,Tue,Wed,Thu,Fri *-*-* 05:30:00 UTC" in files["shoal-energy-use.timer"]


@pytest.mark.parametrize(
    ("when", "wanted"),
    [
        ("*/20 * * * *", ["*-*-* *:00,20,40:00 UTC"]),
        ("@monthly", ["*-*-01 00:00:00 UTC"]),
        ("0 6 1 * 0", ["*-*-01 06:00:00 UTC", "Sun *-*-* 06:00:00 UTC"]),
        ("5,10-12 0 * 3/3 *", ["*-03,06,09,12-* 00:05,10,11,12:00 UTC"]),
    ],
)
def test_times_of_systemd(when, wanted):
    from shoal.workspace.schedule import _checked

    assert _calendar(_checked(when)) == wanted


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_systemd_reads_its_times():
    for text in _calendar("5,10-12 */2 1 3/3 0-2"):
        subprocess.run(["systemd-analyze", "calendar", text], check=True, capture_output=True)


def test_kubernetes_runs_the_steps_one_after_the_other():
    import kubernetes_validate

    (text,) = schedule(
        "kubernetes", name="energy", folder=Path("/project"), when="@daily",
        steps=["run", "monitor"], image="registry/shoal:1",
    ).values()  # fmt: skip
    job = yaml.safe_load(text)
    kubernetes_validate.validate(job, "1.35", strict=True)
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["command"][:2] == ["shoal", "run"]
    assert pod["containers"][0]["command"][:2] == ["shoal", "monitor"]


@pytest.mark.parametrize("kind", ["airflow", "dagster"])
def test_python_definitions_are_python(kind):
    (text,) = written(kind).values()
    tree = ast.parse(text)
    words = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert any(str(FOLDER) in str(word) or "it'" in str(word) for word in words)
    assert "30 5 * * 1-5" in words


@pytest.mark.parametrize(
    "when", ["", "* * * *", "60 * * * *", "* * * * 8", "a * * * *", "5-1 * * * *", "*/0 * * * *"]
)
def test_times_that_cannot_be_are_named(when):
    with pytest.raises(ProjectError, match="is no"):
        written("cron", when)


def test_a_step_that_is_none_is_named():
    with pytest.raises(ProjectError, match="'deploy' cannot be scheduled; run, "):
        written("cron", steps=["deploy"])


@settings(deadline=None)
@given(st.integers(0, 59), st.integers(0, 23), st.integers(1, 28), st.integers(1, 12))
def test_a_moment_is_the_same_in_both_languages(minute, hour, day, month):
    moment = dt.datetime(2026, month, day, hour, minute)
    (text,) = _calendar(f"{minute} {hour} {day} {month} *")
    assert text == f"{moment:*-%m-%d %H:%M:00 UTC}"

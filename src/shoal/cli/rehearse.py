"""``shoal rehearse``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import as_json
from shoal.errors import ProjectError

__all__ = ["rehearse"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


@command("shoal rehearse bundles/delay-3-1f0c9a2b7e55 --memory 512Mi --rate 200")
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--memory", default="1Gi", show_default=True, help="Limit of its memory.")
@click.option("--cpus", default=1.0, show_default=True, help="Limit of its CPU, in cores.")
@click.option("--rate", default=100.0, show_default=True, help="Requests per second to plan for.")
@click.option("--seconds", default=3.0, show_default=True, help="Seconds of load.")
@click.option(
    "--cold-start", default=30.0, show_default=True, help="Seconds in which it must be ready."
)
@as_json
def rehearse(
    bundle: Path,
    *,
    memory: str,
    cpus: float,
    rate: float,
    seconds: float,
    cold_start: float,
    as_json: bool,
) -> None:
    """Run BUNDLE as its container would, compare its answers, and sign it off.

    It runs in a fresh environment of its own packages, within the limits and without network, where
    this machine allows it. The report, rehearsal.json, proposes resources and replicas; a
    deployment asks for it.
    """
    from shoal.deploy import Bundle
    from shoal.deploy import rehearse as run
    from shoal.tracking import user_name

    report = run(
        Bundle.open(bundle),
        memory=size_of(memory),
        cpus=cpus,
        rate=rate,
        seconds=seconds,
        cold_start=cold_start,
        by=user_name(),
    )
    if as_json:
        show.print_json(report)
    else:
        _print(report)
    sys.exit(0 if report["passed"] else 1)


def _print(report: dict[str, Any]) -> None:
    held = report["limits"]
    click.echo(
        f"Memory {held['memory_bytes'] / 2**20:,.0f} MiB ({held['memory_by']}), "
        f"{held['cpus']:g} cores ({held['cpus_by']}); network: {held['network']}; "
        f"file system: {held['file_system']}"
    )
    size = report["environment_bytes"] / 1e6
    click.echo(f"Environment {size:,.0f} MB, made in {report['environment_s']:.1f} s")
    if report["passed"]:
        load = report["load"]
        click.echo(
            f"Ready after {report['cold_start_s']:.2f} s; {report['replayed']} samples answered as "
            f"the registry does; {load['requests_per_s']:,.0f} requests/s, p99 "
            f"{load['p99_ms']:.1f} ms; {report['memory_bytes'] / 2**20:,.0f} MiB"
        )
        plan = report["proposal"]
        click.echo(
            f"For {plan['rate']:g} requests/s: {plan['replicas']} replicas of "
            f"{plan['requests']['cpu']} CPU and {plan['requests']['memory']} "
            f"(limits {plan['limits']['cpu']}, {plan['limits']['memory']})"
        )
        click.echo(click.style("Passed.", fg="green"))
        return
    for failure in report["failures"][:10]:
        click.echo(f"  {failure}")
    click.echo(click.style("Not passed.", fg="red"))


def size_of(text: str) -> int:
    """Bytes of a size as Kubernetes writes it, such as 512Mi.

    Raises:
        ProjectError: It is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]i?)?b?", text.strip().lower())
    if not found:
        raise ProjectError(f"'{text}' is no size.", hint="Write it like 512Mi or 1Gi.")
    return int(float(found[1]) * _UNITS[found[2] or ""])

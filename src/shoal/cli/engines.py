"""``shoal spark``."""

from __future__ import annotations

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import as_json

__all__ = ["spark"]


@command("shoal spark setup")
@click.argument("action", type=click.Choice(["setup", "show"]))
@as_json
def spark(action: str, as_json: bool) -> None:
    """Set up, or show, the Apache Spark that engine = "spark" starts.

    It needs Java 17 and about 550 MB, in SHOAL_SPARK_HOME or the user's cache.
    """
    from shoal.engines import SparkHome, java, make_spark_home

    home = make_spark_home() if action == "setup" else SparkHome.find()
    found = {
        "spark": home.version,
        "folder": str(home.root),
        "jars": [jar.name for jar in home.jars()],
        "java": java(),
    }
    if as_json:
        show.print_json(found)
        return
    delta = next((jar.stem for jar in home.jars() if jar.name.startswith("delta-spark")), "Delta")
    clouds = "s3:// too" if home.reads_s3 else "no s3://"
    click.echo(f"Apache Spark {home.version} with {delta}, {clouds}: {home.root}")
    click.echo('Use it:  engine = "spark"  in a profile of shoal.toml')

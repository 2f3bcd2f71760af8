"""The ``shoal`` command: a thin, readable front of `shoal.workspace`."""

from shoal.cli.app import cli, main

__all__ = ["cli", "main"]

"""Runs the server of a bundle where only its closure can be imported."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from shoal.deploy.bundle import Bundle
from shoal.deploy.process import serving
from shoal.deploy.samples import replay
from shoal.errors import DeployError

__all__ = ["asked_for"]

# Hidden modules look as if they were not installed. Those that Shoal's own code asks for are
# written down; what other libraries try, and do without, is theirs.
_SCRIPT = """
import json, sys

hidden, noted = json.loads(sys.argv[1]), sys.argv[2]


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in hidden:
            return None
        frame = sys._getframe(1)
        while frame is not None and "importlib" in frame.f_globals.get("__name__", "importlib"):
            frame = frame.f_back
        if frame is not None and frame.f_globals["__name__"].partition(".")[0] == "shoal":
            with open(noted, "a") as file:
                file.write(name.partition(".")[0] + "\\n")
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hidden())
from shoal.cli import main

main(["serve", "--bundle", *sys.argv[3:], "--port", "0"])
"""


def asked_for(bundle: Bundle, hidden: Mapping[str, str]) -> set[str]:
    """What a server of a bundle lacks to start and to answer the samples.

    Args:
        bundle: A bundle; its checksums may be missing yet.
        hidden: Top-level modules that it may not import, each with its distribution.

    Returns:
        Distributions to add; empty when all was answered right without any of the hidden ones.

    Raises:
        DeployError: The server does not start, or answers differently, and nothing is missing.
    """
    with tempfile.TemporaryDirectory(prefix="shoal-probe-") as folder:
        noted = Path(folder) / "noted"
        noted.touch()
        modules = json.dumps(sorted(hidden))
        command = [sys.executable, "-c", _SCRIPT, modules, str(noted), str(bundle.folder)]
        command += ["--trust-pickle"] * bool(bundle.content["pickled"])
        wrong: list[str] = []
        try:
            with serving(command) as server:
                wrong, _ = replay(server.url, bundle.samples)
                if wrong:
                    wrong[0] += f"; the server said: {server.said()}"
        except DeployError as error:
            wrong = [error.message]
        found = set(noted.read_text("utf-8").split())
    if found:
        return {hidden[module] for module in found}
    if wrong:
        raise DeployError(
            f"A server of '{bundle.model}' version {bundle.version} does not answer as the "
            f"registry does: {wrong[0]}"
        )
    return set()

"""A process that trains once more: ``python -m shoal.workspace.again REQUEST.json``.

It runs the project's code of the day, so it is a process of its own, of whatever environment.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

__all__ = ["answer"]


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Trains as the request says, and writes the members.

    Args:
        request: ``project`` (folder), ``storage`` (the lake's folder), ``model``, ``versions``
            (of the table), ``params`` and ``tuned`` of a search, ``segments``, and ``folder`` for
            the members: one Parquet file for each version.

    Returns:
        ``fingerprint``, ``definition``, ``environment``, and ``gone``: versions that cannot be
        read, with what was found.
    """
    import pyarrow.parquet as pq

    from shoal.errors import TableError
    from shoal.project import Project, find_project
    from shoal.tracking import environment
    from shoal.training import train_again
    from shoal.workspace import Workspace

    found = find_project(Path(request["project"]))
    profile = replace(found.profile, storage=request["storage"])
    space = Workspace(Project(root=found.root, spec=found.spec, profile=profile))
    gone: dict[str, str] = {}
    fingerprint = ""
    with space:
        (declaration,) = space.declared([request["model"]])
        definition = declaration.fingerprint()
        if declaration.search is not None:  # what it found then
            found_then = {"params": request["params"], "tuned": request["tuned"]}
            declaration = replace(declaration, search=None, **found_then)
        for version in request["versions"]:
            try:
                rows, fingerprint = train_again(
                    declaration, space.lake, version, segments=request.get("segments", ())
                )
            except (TableError, OSError) as error:
                gone[str(version)] = str(error)
                continue
            pq.write_table(rows, Path(request["folder"]) / f"{version}.parquet")
    return {
        "fingerprint": fingerprint,
        "definition": definition,
        "environment": environment(),
        "gone": gone,
    }


def _main() -> None:
    from shoal.errors import ShoalError

    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        said = answer(request)
    except ShoalError as error:
        said = {"error": error.message, "hint": error.hint}
    (Path(request["folder"]) / "answer.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    _main()

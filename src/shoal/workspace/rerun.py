"""A script's run once more, and what it logged compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import ModelError, TrackingError
from shoal.workspace.reproduction import Reproduction, checked_out, keep_receipt
from shoal.workspace.scripts import AGAIN

if TYPE_CHECKING:
    from shoal.tracking import TrackedRun
    from shoal.workspace.workspace import Workspace

__all__ = ["is_run", "run_again", "script_of"]


def is_run(text: str) -> bool:
    """Whether a reference looks like a run's id."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def script_of(space: Workspace, ref: str) -> Path | None:
    """What the run of a script kept; None where the reference is another thing."""
    if not is_run(ref) or space.tracker.run(ref).tags.get("shoal.kind") != "script":
        return None
    kept = space.tracker.kept(ref)
    if kept is None or not (kept / "script.json").is_file():
        raise TrackingError(f"The run {ref} of a script kept no code; it may have been killed.")
    return kept


def run_again(
    space: Workspace, run_id: str, kept: Path, tolerance: float, begun: float
) -> Reproduction:
    """Runs a script again, and compares what it logged."""
    from shoal.tracking import Tracker, cause_of_change, changed_environment
    from shoal.tracking import environment as this_environment

    asked, about, then = (
        json.loads((kept / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("script", "code", "environment")
    )
    if asked["script"] is None:
        raise TrackingError(
            "The run's script was not a file of the project, such as a notebook's cell.",
            hint="put it into a file below the project's folder",
        )
    changed = changed_environment(then, this_environment())
    before = space.tracker.run(run_id)
    with (
        tempfile.TemporaryDirectory(prefix="shoal-reproduce-") as name,
        checked_out(space.project.root, kept, about, Path(name)) as (project, code),
    ):
        uri = f"sqlite:///{name}/mlflow.db"
        given = {"storage": str(space.lake.root), "tracking": uri, "pins": asked["tables"]}
        done = subprocess.run(  # noqa: S603 - the person's own script, as it was run before
            [sys.executable, asked["script"], *asked["arguments"]],
            cwd=project,
            env=os.environ | {AGAIN: json.dumps(given)},
            capture_output=True,
            text=True,
            check=False,
        )
        runs = Tracker(uri, None, space.project.name).runs() if not done.returncode else []
    if not runs:
        raise ModelError(f"The script cannot be run again: {done.stderr.strip()[-800:]}")
    again = next(run for run in runs if run.name == before.name)
    verdicts, gaps, differ = _logged(before, again, tolerance)
    causes = [cause_of_change(text) for text in changed]
    found = Reproduction(
        model=f"{asked['script']} (run {run_id})",
        run_id=run_id,
        table=", ".join(f"{t}@{v}" for t, v in asked["tables"].items()) or "no table",
        verdicts=verdicts,
        difference=max(gaps, default=None),
        causes=tuple(causes or ["none found: is there randomness without a seed?"])
        if differ
        else (),
        different=tuple(differ[:20]),
        environment=", ".join(changed) or "same",
        code=code,
        seconds=time.perf_counter() - begun,
    )
    keep_receipt(space, found)
    return found


def _logged(
    before: TrackedRun, again: TrackedRun, tolerance: float
) -> tuple[dict[str, int], list[float], list[str]]:
    """Verdicts over parameters and metrics, differences, and which are different."""
    verdicts: Counter[str] = Counter()
    gaps, differ = [], []
    for name in sorted({*before.params, *again.params}):
        same = before.params.get(name) == again.params.get(name)
        verdicts["identical" if same else "different"] += 1
        differ += [] if same else [name]
    for name in sorted({*before.metrics, *again.metrics}):
        one, other = before.metrics.get(name), again.metrics.get(name)
        if one == other:
            verdicts["identical"] += 1
            continue
        if one is not None and other is not None:
            gaps.append(abs(one - other) / max(abs(one), 1e-300))
        equal = one is not None and other is not None and gaps[-1] <= tolerance
        verdicts["equal" if equal else "different"] += 1
        differ += [] if equal else [name]
    return dict(verdicts), gaps, differ

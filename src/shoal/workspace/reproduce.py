"""Proving a model: trained again from its pinned data, code and environment, and compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import ModelError, TrackingError
from shoal.workspace.reproduction import Reproduction, checked_out, keep_receipt
from shoal.workspace.rerun import is_run, run_again, script_of

if TYPE_CHECKING:
    import polars as pl

    from shoal.tracking import ModelVersion
    from shoal.workspace.workspace import Workspace

__all__ = ["Reproduction", "reproduce"]

# Rows of each segment whose predictions are compared where the stored bytes differ.
_ROWS = 200


def reproduce(
    space: Workspace,
    ref: str,
    *,
    segments: Sequence[str] = (),
    tolerance: float = 1e-9,
    environment: str = "auto",
) -> Reproduction:
    """Trains a registered version again, and compares member by member.

    Nothing is registered and no table changes; the run gets the receipt as an artifact.

    Args:
        space: The project's workspace.
        ref: A version, such as ``delay/7`` or ``models:/delay@champion``, or a run's id.
        segments: Compare these alone, such as ``UA,IAH``.
        tolerance: Largest relative difference of predictions of equal members.
        environment: ``auto`` rebuilds the recorded packages with uv where they differ from those
            here, ``rebuild`` always does, ``current`` never.

    Raises:
        TrackingError: There is no such version or run, or it kept nothing to train it by.
        ModelError: The code of that time cannot be loaded, or raises.
    """
    begun = time.perf_counter()
    script = script_of(space, ref)
    if script is not None:
        return run_again(space, ref, script, tolerance, begun)
    version = _version(space, ref)
    before = _chosen(_recorded(space, version), segments, version)
    runs = [
        _again(space, trainer, rows, segments, tolerance=tolerance, environment=environment)
        for trainer, rows in _trainers(space, version, before)
    ]
    result = [each for run in runs for each in run.result]
    found = Reproduction(
        model=version.uri,
        run_id=str(version.run_id),
        table=_words(run.table for run in runs),
        verdicts=dict(Counter(verdict for _, verdict, _ in result)),
        difference=max((gap for *_, gap in result if gap is not None), default=None),
        causes=tuple(dict.fromkeys(cause for run in runs for cause in run.causes)),
        different=tuple(key for key, verdict, _ in result if verdict in ("different", "gone"))[:20],
        environment=_words(run.environment for run in runs),
        code=_words(run.code for run in runs),
        seconds=time.perf_counter() - begun,
    )
    keep_receipt(space, found)
    return found


def _words(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


@dataclass(frozen=True, kw_only=True)
class _Again:
    """What one training once more showed: segment, verdict and difference; and how it was made."""

    result: list[tuple[str, str, float | None]]
    causes: tuple[str, ...]
    table: str
    environment: str
    code: str


def _trainers(
    space: Workspace, version: ModelVersion, rows: pl.DataFrame
) -> list[tuple[ModelVersion, pl.DataFrame]]:
    """The versions whose code fitted some members, and those members.

    A composite was not trained: its members are made again by the code of their own trainings.
    """
    import polars as pl

    if "shoal.parts" not in version.tags:
        return [(version, rows)]
    trained = {
        v.tags.get("shoal.fleet_version"): v
        for v in space.tracker.versions(version.name)
        if "shoal.parts" not in v.tags
    }
    found = []
    for fingerprint in rows["fingerprint"].unique(maintain_order=True):
        part = rows.filter(pl.col("fingerprint") == fingerprint)
        origin = str(part["origin_version"].max())
        if origin not in trained:
            raise TrackingError(
                f"{version.uri} has members of fleet version {origin}, which is registered no more."
            )
        found.append((trained[origin], part))
    return found


def _again(
    space: Workspace,
    version: ModelVersion,
    before: pl.DataFrame,
    segments: Sequence[str],
    *,
    tolerance: float,
    environment: str,
) -> _Again:
    """Trains once more what one version's training fitted."""
    from shoal.tracking import changed_environment
    from shoal.tracking import environment as this_environment

    kept = space.tracker.kept(version.run_id) if version.run_id else None
    if kept is None or not (kept / "training.json").is_file():
        raise TrackingError(
            f"{version.uri} kept no code and environment: another tool, or an older Shoal, made "
            "it.",
            hint=f"train it anew, then reproduce that version: shoal train {version.name} --all",
        )
    asked, about, then = (
        json.loads((kept / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("training", "code", "environment")
    )
    changed = changed_environment(then, this_environment())
    packages = [text for text in changed if not text.startswith(("processor", "threads"))]
    with (
        tempfile.TemporaryDirectory(prefix="shoal-reproduce-") as name,
        checked_out(space.project.root, kept, about, Path(name)) as (project, code),
    ):
        rebuild = environment == "rebuild" or (environment == "auto" and bool(packages))
        python = _python(Path(name), then) if rebuild else Path(sys.executable)
        request = {
            "project": str(project),
            "storage": str(space.lake.root),
            "model": version.name,
            "versions": sorted(set(before["pinned"].to_list())),
            "params": asked["params"],
            "tuned": asked["tuned"],
            "segments": before["segment"].to_list() if segments else [],
            "folder": name,
        }
        told = _child(python, request, Path(name), then, rebuilt=rebuild)
        after = _trained(Path(name), request["versions"])
        result = _compared(before, after, told, tolerance)
    # What still differs in the process that trained: threads and packages may have been put back.
    left = changed_environment(then, told["environment"])
    return _Again(
        result=result,
        causes=_causes(result, version, told, left),
        table=f"{asked['table']}@{asked['table_version']}",
        environment="rebuilt" if rebuild else ", ".join(changed) or "same",
        code=code,
    )


def _version(space: Workspace, ref: str) -> ModelVersion:
    text = ref.removeprefix("models:/")
    if is_run(text):
        run = space.tracker.run(text)
        name = run.params.get("model", "")
        for version in space.tracker.versions(name) if name else ():
            if version.run_id == text:
                return version
        raise TrackingError(
            f"The run {text} registered no model.",
            hint="only runs of shoal train and of shoal.start_run() keep what is needed",
        )
    return space.tracker.resolve(text)


def _recorded(space: Workspace, version: ModelVersion) -> pl.DataFrame:
    """The version's members: segment, level, state, template, metric, and the table version."""
    import polars as pl

    tags = version.tags
    members, number = tags.get("shoal.members_version"), tags.get("shoal.fleet_version")
    if not members or not number:
        raise TrackingError(f"{version.uri} is no fleet of this project.")
    table = space.lake.existing(tags["shoal.members_table"])
    rows = table.scan(int(members)).filter(pl.col("fleet_version") == int(number)).collect()
    metric = json.loads(rows["params"][0])["metric"]
    known = rows.filter(pl.col("structure").is_not_null())
    texts = dict(zip(known["template"], known["structure"], strict=True))
    # A segment was last compared at table_version: its rows are those. A group keeps those of
    # the training that fitted it.
    pinned = pl.when(pl.col("level") == 0).then("table_version").otherwise("trained_on_version")
    return rows.filter(pl.col("segment") != "baseline").select(
        # A composite's fallback group of another training is called ["UA"]@3.
        pl.col("segment").str.replace(r"@\d+$", ""),
        "level",
        "status",
        "state",
        "fingerprint",
        "origin_version",
        pl.col("template").replace_strict(texts, default=None, return_dtype=pl.String),
        pl.col(metric).alias("metric"),
        pinned.alias("pinned"),
    )


def _chosen(rows: pl.DataFrame, segments: Sequence[str], version: ModelVersion) -> pl.DataFrame:
    import polars as pl

    if not segments:
        return rows
    texts = {key: ",".join(t or "null" for t in json.loads(key)) for key in rows["segment"]}
    wanted = [k for k, text in texts.items() if text in segments or k in segments]
    found = rows.filter(pl.col("segment").is_in(wanted), pl.col("level") == 0)
    if len(found) < len(set(segments)):
        raise TrackingError(f"{version.uri} has not all of the segments {', '.join(segments)}.")
    return found


def _python(folder: Path, then: Mapping[str, Any]) -> Path:
    """An interpreter with the recorded packages, made by uv."""
    uv = shutil.which("uv")
    if uv is None:
        raise TrackingError(
            "The recorded packages are others than those here, and uv, which would install them, "
            "is not.",
            hint="install uv, or compare with the packages here: --env current",
        )
    place = folder / "venv"
    lines = [f"{n}=={v}" for n, v in then["packages"].items() if n not in ("shoal", "pip", "uv")]
    (folder / "packages.txt").write_text("\n".join(lines), encoding="utf-8")
    python = place / "bin" / "python"
    for command in (
        [uv, "venv", "--quiet", "--python", then["python"], str(place)],
        [uv, "pip", "install", "--quiet", "--no-deps", "--python", str(python), "-r",
         str(folder / "packages.txt")],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise TrackingError(
                f"The recorded packages cannot be installed: {done.stderr.strip()[-500:]}",
                hint="compare with the packages here: --env current",
            )
    return python


def _child(
    python: Path,
    request: Mapping[str, Any],
    folder: Path,
    then: Mapping[str, Any],
    *,
    rebuilt: bool,
) -> dict[str, Any]:
    """What the process that trained again answers; it has the recorded settings of threads."""
    import shoal
    from shoal.tracking import THREADS

    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    paths = [os.environ.get("PYTHONPATH", "")]
    if rebuilt:  # Shoal itself is this one
        paths.insert(0, str(Path(shoal.__file__).parents[1]))
    done = subprocess.run(  # noqa: S603 - our own module
        [str(python), "-m", "shoal.workspace.again", str(folder / "request.json")],
        cwd=request["project"],
        env={name: value for name, value in os.environ.items() if name not in THREADS}
        | dict(then.get("threads", {}))
        | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    answer = folder / "answer.json"
    told = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else {}
    if "error" in told or not told:
        why = told.get("error") or done.stderr.strip()[-800:]
        raise ModelError(f"The training cannot be run again: {why}", hint=told.get("hint"))
    return dict(told)


def _trained(folder: Path, versions: Sequence[int]) -> dict[int, dict[str, dict[str, Any]]]:
    import pyarrow.parquet as pq

    found = {}
    for version in versions:
        file = folder / f"{version}.parquet"
        if file.is_file():
            rows = pq.read_table(file)
            names = ["metric" if n not in _PLAIN else n for n in rows.column_names]
            found[version] = {r["segment"]: r for r in rows.rename_columns(names).to_pylist()}
    return found


_PLAIN = ("segment", "level", "status", "state", "template")


def _compared(
    before: pl.DataFrame,
    after: Mapping[int, Mapping[str, Mapping[str, Any]]],
    told: Mapping[str, Any],
    tolerance: float,
) -> list[tuple[str, str, float | None]]:
    """Segment, verdict, and the largest relative difference of its predictions."""
    found: list[tuple[str, str, float | None]] = []
    for row in before.iter_rows(named=True):
        key, pinned = row["segment"], row["pinned"]
        if str(pinned) in told["gone"]:
            found.append((key, "gone", None))
            continue
        again = after.get(pinned, {}).get(key)
        if again is None:
            found.append((key, "different", None))
        elif _same(row, again):
            found.append((key, "identical", None))
        elif row["state"] is None or again["state"] is None:
            found.append((key, "different", None))
        else:
            gap = _gap(row, again)
            equal = gap is not None and gap <= tolerance
            found.append((key, "equal" if equal else "different", gap))
    return found


def _same(row: Mapping[str, Any], again: Mapping[str, Any]) -> bool:
    metrics = (row["metric"], again["metric"])
    same = metrics[0] == metrics[1] or all(m is None or m != m for m in metrics)  # noqa: PLR0124
    return same and all(row[name] == again[name] for name in ("status", "state", "template"))


def _gap(row: Mapping[str, Any], again: Mapping[str, Any]) -> float | None:
    """The largest relative difference of two members' predictions of the same made-up rows."""
    import numpy as np

    from shoal.models import decode

    try:
        ours, theirs = (decode(r["template"], r["state"]) for r in (row, again))
        width = int(getattr(ours, "n_features_in_", 0))
        rows = np.random.default_rng(0).normal(size=(_ROWS, width))
        one, other = (np.asarray(m.predict(rows), dtype=np.float64) for m in (ours, theirs))
    except Exception:  # noqa: BLE001 (classes of the person's own are not opened here)
        return None
    if one.shape != other.shape:
        return None
    return float(np.abs(one - other).max() / max(np.abs(one).max(), 1e-300))


def _causes(
    result: Sequence[tuple[str, str, float | None]],
    version: ModelVersion,
    told: Mapping[str, Any],
    changed: Sequence[str],
) -> tuple[str, ...]:
    from shoal.tracking import cause_of_change

    verdicts = {verdict for _, verdict, _ in result}
    if verdicts <= {"identical"}:
        return ()
    causes = [f"data: {text}" for text in told["gone"].values()]
    if "different" in verdicts or "equal" in verdicts:
        if told["definition"] != version.tags.get("shoal.fingerprint"):
            causes.append("code: the declaration or its function is not what was recorded")
        causes += [cause_of_change(text) for text in changed]
        if not causes:
            causes.append("none found: does the estimator use randomness without random_state=?")
    return tuple(causes)

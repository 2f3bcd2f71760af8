"""One R process for one job: a folder with the job, and afterwards R's answer."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from shoal.errors import PipelineError
from shoal.pipeline.rlang.exchange import read_frame, write_frame

__all__ = ["check_installed", "run_job"]

_POLL = 0.05


def check_installed(needed_by: str) -> str:
    """The path of ``Rscript``.

    Args:
        needed_by: What needs R, for the message.

    Raises:
        PipelineError: R is not installed.
    """
    found = shutil.which("Rscript")
    if found is None:
        raise PipelineError(
            f"{needed_by} needs R, and R is not installed (there is no Rscript on the PATH).",
            hint="Debian and Ubuntu: apt-get install r-base-core; macOS: brew install r; others: "
            "https://cran.r-project.org",
        )
    return found


def run_job(
    job: Sequence[tuple[str, str, str, str]],
    folder: Path,
    *,
    root: Path,
    needed_by: str,
    stopped: Callable[[], bool] = lambda: False,
    timeout: float | None = None,
) -> tuple[str, ...]:
    """Lets R do a job and waits for it; its answer lies in the folder then.

    Args:
        job: Rows of field, name, value and inputs, as ``main.R`` reads them.
        folder: A private folder.
        root: Project folder, the current folder of R.
        needed_by: What needs R, for messages.
        stopped: Asked all the time; true ends R.
        timeout: Seconds after which R is ended.

    Returns:
        R's warnings with their places.

    Raises:
        KeyboardInterrupt: ``stopped`` became true.
        PipelineError: R is not installed, the code failed (with R's message, file and line), R
            died, or it took too long.
    """
    import pyarrow as pa

    program = check_installed(needed_by)
    names = ("field", "name", "value", "inputs")
    columns = list(zip(*job, strict=True))
    write_frame(
        pa.table(columns, schema=pa.schema([(n, pa.string()) for n in names])), folder / "job.bin"
    )
    with (folder / "stderr.txt").open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603
            [
                *_dies_with_us(),
                program,
                "--vanilla",
                str(Path(__file__).with_name("main.R")),
                str(folder),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=root,
            env={**os.environ, **_locale()},
            start_new_session=True,  # Ctrl-C is for us: we end R and say so
        )
    try:
        _wait(process, stopped, timeout)
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    _check(process.returncode, folder)
    notes = folder / "notes.bin"
    if not notes.exists():
        return ()
    return tuple(f"R warning: {text}" for text in read_frame(notes)["message"].to_pylist())


def _dies_with_us() -> list[str]:
    """Lets Linux end R when this process is killed, so that no R is left running alone."""
    program = shutil.which("setpriv")
    return [program, "--pdeathsig", "KILL"] if program else []


def _locale() -> dict[str, str]:
    """R's text is UTF-8, its order of text that of the bytes, its clock UTC, its words English."""
    name = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
    return {"LC_ALL": name, "LANGUAGE": "en", "TZ": "UTC"}


def _wait(
    process: subprocess.Popen[bytes], stopped: Callable[[], bool], timeout: float | None
) -> None:
    start = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL)
            return
        if stopped():
            raise KeyboardInterrupt
        if timeout is not None and time.monotonic() - start > timeout:
            raise PipelineError(
                f"R took longer than its timeout of {timeout:g} seconds and was ended; nothing "
                "was committed.",
                hint="Give it more time with timeout = ..., or fewer rows.",
            )


def _check(code: int, folder: Path) -> None:
    """Raises what R said, or what is known when it could say nothing."""
    if (folder / "error.bin").exists():
        said = read_frame(folder / "error.bin").to_pylist()[0]
        raise PipelineError(f"{said['file']}:{said['line']}: R: {said['message']}")
    if code < 0:
        raise PipelineError(
            f"R was ended by the signal {signal.Signals(-code).name}.",
            hint="SIGKILL often means that memory ran out: give R fewer rows or columns."
            if code == -signal.SIGKILL
            else None,
        )
    if code == 0 and any((folder / name).exists() for name in ("flows.bin", "result.bin")):
        return
    last = (folder / "stderr.txt").read_text(errors="replace").strip().splitlines()[-3:]
    raise PipelineError(
        f"R ended with status {code} and no result" + (f": {' '.join(last)}" if last else "."),
        hint="Does the code call quit()?" if code == 0 else None,
    )

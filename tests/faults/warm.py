"""Runs of the real ``shoal`` command, forked from a process that has imported everything.

Most of a short run is the start of its process; forking makes a hundred killed runs affordable.
Nothing but imports happens before the fork: each run opens its own engine, lock and tables.

    python warm.py      reads one JSON list of arguments a line, answers with JSON
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self


class Run:
    """One forked run.

    Args:
        pid: Its process.
        log: Where it writes what the command prints.
        parent: The process that forked it.
    """

    def __init__(self, pid: int, log: Path, parent: "Warm") -> None:
        self.pid, self.log, self._parent = pid, log, parent
        self.code: int | None = None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        if self.code is None:
            self.code = self._parent.ask("wait", self.pid)
        return self.code

    def told(self) -> str:
        """What it printed, output and errors."""
        return self.log.read_text()

    def ok(self) -> None:
        """Waits for its good end."""
        assert self.wait() == 0, f"exit code {self.code}\n{self.told()}"


class Warm:
    """The forking process; a context manager.

    Args:
        folder: Where logs go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self.ask("ready") == 0, "a thread of the parent would be missing in its children"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, *words: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, root: Path, *options: str, limit: tuple[int, int] | None = None) -> Run:
        """Starts ``shoal run --project ROOT --tables-only OPTIONS``.

        Args:
            root: The project.
            options: More of the command's.
            limit: Soft and hard limit of the size of files that the run may write.
        """
        self._count += 1
        log = self.folder / f"run-{self._count:03}.log"
        words = ["run", "--project", str(root), "--tables-only", *options]
        return Run(self.ask("fork", str(log), limit, *words), log, self)

    def killed(self, root: Path, seconds: float) -> Run:
        """Starts a run and kills it after that time, if it has not ended by then."""
        run = self.start(root)
        until = time.monotonic() + seconds
        while time.monotonic() < until and not _ended(run.pid):
            time.sleep(0.001)
        run.kill()  # harmless for one that ended: nobody has waited for it, so the id is still its
        run.wait()
        return run


def _ended(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def _child(log: str, limit: list[int] | None, words: list[str]) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((nothing, out, out)):
        os.dup2(source, target)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit[0], limit[1]))
    from shoal.cli.app import main

    try:
        main(words)
    except SystemExit as done:
        code = done.code
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def _threads() -> list[str]:
    """Other threads of this process, but for jemalloc's, which starts them anew in a child."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names[1:] if name != "jemalloc_bg_thd"]


def _serve() -> None:
    import deltalake  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import pyspark.pipelines
    import pyspark.sql.connect.session  # noqa: F401
    import sqlglot  # noqa: F401
    from pysail.spark import SparkConnectServer  # noqa: F401

    import shoal.cli.app
    import shoal.pipeline
    import shoal.workspace  # noqa: F401

    for line in sys.stdin:
        match json.loads(line):
            case ["ready"]:
                answer = len(_threads())
            case ["wait", pid]:
                answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            case ["fork", log, limit, *words]:
                answer = os.fork()
                if answer == 0:
                    _child(log, limit, words)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()

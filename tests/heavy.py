"""Runs the heavy tests, each file in a process of its own, two at a time.

PyTorch, TensorFlow and engines leave much behind in a process; no file meets what another left.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

NO_TESTS = 5


def run(file: Path) -> subprocess.CompletedProcess[str]:
    options = ["-q", "-rfEsR", "--tb=short", "-m", "heavy"]
    command = [sys.executable, "-m", "pytest", *options, str(file)]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def told(
    file: Path, done: subprocess.CompletedProcess[str], total: Counter[str], *, again: bool = False
) -> bool:
    """Prints a file's output, and whether all is well; its tests count as they ended at last."""
    if done.returncode == NO_TESTS:
        return True
    print(f"--- {file}{' again, alone' if again else ''}\n{done.stdout}", flush=True)
    if again or not done.returncode:
        closing = done.stdout.strip().rsplit("\n", 1)[-1]
        for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", closing):
            total["failed" if word == "error" else word] += int(number)
    return not done.returncode


def main() -> int:
    files = [f for f in sorted(Path("tests").rglob("test_*.py")) if "heavy" in f.read_text()]
    total: Counter[str] = Counter()
    broken = []
    with ThreadPoolExecutor(2) as pool:
        running = {pool.submit(run, file): file for file in files}
        for ended in as_completed(running):
            if not told(running[ended], ended.result(), total):
                broken.append(running[ended])
    # Two files share the machine above: what failed there has it for itself once.
    broken = [file for file in broken if not told(file, run(file), total, again=True)]
    if broken:
        print("Failed:", *broken, sep="\n  ")
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

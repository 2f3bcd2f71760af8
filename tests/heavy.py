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


def main() -> int:
    files = [f for f in sorted(Path("tests").rglob("test_*.py")) if "heavy" in f.read_text()]
    total: Counter[str] = Counter()
    broken = []
    with ThreadPoolExecutor(2) as pool:
        running = {pool.submit(run, file): file for file in files}
        for ended in as_completed(running):
            done, file = ended.result(), running[ended]
            if done.returncode == NO_TESTS:
                continue
            print(f"--- {file}\n{done.stdout}", flush=True)
            closing = done.stdout.strip().rsplit("\n", 1)[-1]
            for number, word in re.findall(r"(\d+) (passed|failed|skipped|xfailed|error)", closing):
                total[word] += int(number)
            if done.returncode:
                broken.append(str(file))
    if broken:
        print("Failed:", *broken, sep="\n  ")
    failed = total["failed"] + total["error"]
    print(f"{total['passed']} passed, {failed} failed, {total['skipped']} skipped")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

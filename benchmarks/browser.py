"""How the workspace feels in a browser: a scatter of 100,000 segments, a graph of 1,000 nodes.

Real Chromium without a graphics card, driven by real mouse events; frames are counted in the page:

    python benchmarks/browser.py
    python benchmarks/browser.py --segments 10000 --nodes 200
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.table import Table

from ui import prepare

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
# Notes the time of each frame, and each piece of work that held the page for over 50 ms.
WATCH = """
() => {
  window.frames_ = []; window.long_ = [];
  const tick = (now) => { window.frames_.push(now); window.watching = requestAnimationFrame(tick); };
  window.watching = requestAnimationFrame(tick);
  new PerformanceObserver((list) => list.getEntries().forEach((e) => window.long_.push(e.duration)))
    .observe({ type: "longtask" });
}
"""
# The pixel that is read back makes the browser end its drawing.
AGAIN = """
() => {
  const begun = performance.now();
  document.getElementById("log").click();
  document.querySelector("#scatter canvas").getContext("2d").getImageData(0, 0, 1, 1);
  return performance.now() - begun;
}
"""
SEEK = """
(text) => {
  const begun = performance.now(), seek = document.getElementById("seek");
  seek.value = text;
  seek.dispatchEvent(new Event("input"));
  document.body.getBoundingClientRect();
  return performance.now() - begun;
}
"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=40, help="rows of each segment")
    parser.add_argument("--nodes", type=int, default=1_000, help="nodes of the lineage graph")
    parser.add_argument("--keep", type=Path, help="make the lake here, or take the one that is")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        root = options.keep or Path(folder) / "bench"
        if not root.exists():
            prepare(root, options)
        rows = measure(root)
    table = Table(title=f"{options.segments:,} segments, {options.nodes:,} nodes, Chromium")
    table.add_column("what")
    for name in ("took, ms", "frames/s", "slowest frame, ms", "longest task, ms"):
        table.add_column(name, justify="right")
    for name, *numbers in rows:
        table.add_row(name, *("" if n is None else f"{n:.0f}" for n in numbers))
    Console(width=110).print(table)


def measure(root: Path) -> list[tuple[Any, ...]]:
    """Open the two pages and use them."""
    command = [sys.executable, "-m", "shoal.cli", "ui", "--port", "0", "--project", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[4].rstrip("/") + "/"
        try:
            with sync_playwright() as driver:
                program = shutil.which("chromium")
                browser = driver.chromium.launch(executable_path=program, args=FLAGS)
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                page.goto(url)
                page.wait_for_selector("main h1", timeout=60_000)
                return scatter(page, url) + lineage(page, url)
        finally:
            server.terminate()


def scatter(page: Page, url: str) -> list[tuple[Any, ...]]:
    """All segments as points: drawn, pointed at, brushed, drawn otherwise, filtered."""
    page.goto(f"{url}fleets/load")  # reads what the page needs, once
    page.wait_for_selector("#scatter[data-drawn]")
    found: list[tuple[Any, ...]] = [
        ("the fleet's page, all points drawn", timed(lambda: opened(page, f"{url}fleets/load")))
    ]
    canvas = page.locator("#scatter canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    x, y = box["x"], box["y"]
    found.append(
        (
            "points under a moving mouse",
            *moving(page, x + 80, y + 250, x + 300, y + 120, held=False),
        )
    )
    found.append(
        ("a range drawn over them", *moving(page, x + 80, y + 60, x + 300, y + 250, held=True))
    )
    page.wait_for_load_state()
    page.goto(f"{url}fleets/load")
    page.wait_for_selector("#scatter[data-drawn]")
    found.append(("all points on the other scale", page.evaluate(AGAIN)))
    found.append(
        ("a filter by a key", timed(lambda: opened(page, f"{url}fleets/load?by.region=north")))
    )
    page.goto(f"{url}fleets/load")
    link = page.locator("main a[href*='/segment?key=']").first

    def follow() -> None:
        link.click()
        page.wait_for_selector("#series[data-drawn]")

    found.append(("from the worst segment's row to its chart", timed(follow)))
    return fill(found)


def opened(page: Page, address: str) -> None:
    """A fleet's page with all its points on it."""
    page.goto(address)
    page.wait_for_selector("#scatter[data-drawn]")


def lineage(page: Page, url: str) -> list[tuple[Any, ...]]:
    """The graph: drawn, moved, zoomed, searched, one node's reach lit."""

    def drawn() -> None:
        page.goto(f"{url}lineage")
        page.wait_for_selector("#graph[data-ready]")

    drawn()
    found: list[tuple[Any, ...]] = [("the graph drawn", timed(drawn))]
    box = page.locator("#graph").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    found.append(("moved, all of it in sight", *moving(page, x, y, x + 200, y + 60, held=True)))
    found.append(("zoomed by the wheel", *zoomed(page, x, y)))
    found.append(("moved, near", *moving(page, x, y, x + 200, y + 60, held=True)))
    page.locator("#graph [data-fit]").click()
    found.append(("a search that finds one of them", page.evaluate(SEEK, "table_0500")))

    def lit() -> None:
        page.locator("#seek").press("Enter")
        page.wait_for_selector("#detail h2")

    found.append(("its way lit, and its columns", timed(lit)))
    return fill(found)


def moving(
    page: Page, x: float, y: float, to_x: float, to_y: float, *, held: bool, steps: int = 120
) -> tuple[float | None, ...]:
    """The mouse moved to and fro; milliseconds, frames per second, and the slowest."""
    page.mouse.move(x, y)
    if held:
        page.mouse.down()
    page.evaluate(WATCH)
    for step in range(1, steps + 1):
        share = 1 - abs(1 - 2 * step / steps) if held and step < steps else step / steps
        page.mouse.move(x + (to_x - x) * share, y + (to_y - y) * share)
    found = frames(page)
    if held:
        page.mouse.up()
    return found


def zoomed(page: Page, x: float, y: float) -> tuple[float | None, ...]:
    """The wheel turned towards the middle, and half the way back."""
    page.mouse.move(x, y)
    page.evaluate(WATCH)
    for step in range(90):
        page.mouse.wheel(0, -30 if step < 60 else 30)
    return frames(page)


def frames(page: Page) -> tuple[float | None, ...]:
    """What was seen since the page is watched: nothing took longer than its frames."""
    times, long = page.evaluate(
        "() => { cancelAnimationFrame(window.watching); return [window.frames_, window.long_]; }"
    )
    gaps = [b - a for a, b in itertools.pairwise(times)]
    rate = 1_000 * len(gaps) / (times[-1] - times[0])
    return None, rate, max(gaps), max(long, default=0.0)


def timed(act: Any) -> float:
    """Milliseconds."""
    begun = time.perf_counter()
    act()
    return (time.perf_counter() - begun) * 1_000


def fill(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """All of five parts."""
    return [(*row, *[None] * (5 - len(row))) for row in rows]


if __name__ == "__main__":
    main()

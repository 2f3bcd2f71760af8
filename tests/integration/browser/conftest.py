"""The workspace of a small real project in Chromium, with a scoring server beside it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import meters

AXE = Path(__file__).parents[3] / ".tools/axe/axe.min.js"
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def serving(root: Path, *command: str) -> Iterator[str]:
    """A shoal command that serves; gives what it says when it listens, and ends it afterwards."""
    started = [sys.executable, "-m", "shoal.cli", *command, "--project", str(root)]
    log = root.parent / f"{command[0]}.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(started, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        said = ""
        try:
            for line in process.stdout:
                said += line
                if "Ctrl-C stops" in line and "--token" not in command:
                    break
                if "For a viewer" in line:
                    break
            assert "http://127.0.0.1:" in said, log.read_text()
            if command[0] == "ui" and "--token" not in command:
                wait_until_whole(address(said))
            yield said
        finally:
            process.terminate()


def wait_until_whole(url: str) -> None:
    """Until the libraries are loaded, each page says that it comes by itself."""
    request = urllib.request.Request(url, headers={"accept": "text/html"})
    while urllib.request.urlopen(request, timeout=120).status != 200:
        time.sleep(0.1)


def address(said: str) -> str:
    """The first address in what a server said."""
    return next(word for word in said.split() if word.startswith("http://"))


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("browser") / "meters"
    meters.make_project(root, meters=320)
    return root


@pytest.fixture(scope="session")
def scoring(root) -> Iterator[str]:
    with serving(root, "serve", "load", "--port", "0", "--log") as said:
        yield address(said)


@pytest.fixture(scope="session")
def url(root, scoring) -> Iterator[str]:
    with serving(root, "ui", "--port", "0", "--server", scoring) as said:
        yield address(said)


@pytest.fixture(scope="session")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("There is no chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, url):
    """A laptop's page that must have said nothing to the console when the test ends."""
    with watched(browser, url, width=1280, height=800) as page:
        yield page


@contextlib.contextmanager
def watched(browser, url, *, noted: str = "", **options):
    """A page whose console must stay empty, but for what is noted."""
    size = {"width": options.pop("width"), "height": options.pop("height")}
    context = browser.new_context(viewport=size, base_url=url, accept_downloads=True, **options)
    page = context.new_page()
    page.set_default_timeout(60_000)
    said: list[str] = []
    page.on("console", lambda m: said.append(m.text) if m.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    try:
        yield page
        left = [text for text in said if not noted or noted not in text]
        assert not left, left
    finally:
        context.close()

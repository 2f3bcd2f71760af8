"""Every block of code of the documentation is run, page by page, in a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = sorted(
    str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if BLOCK.search(page.read_text())
)
# Text is for reading; everything else is run, or written to the file that its title names.
SHOWN = {"text", "mermaid"}


def run(command: list[str], folder: Path, text: str | None = None) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "160",
    }
    done = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [p for p in PAGES if not p.startswith("reference/")])
def test_the_code_of_a_page_runs(page, tmp_path):
    blocks = BLOCK.findall((DOCS / page).read_text())
    for language, title, text in blocks:
        if language in SHOWN:
            continue
        if title:
            file = tmp_path / title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            if file.suffix == ".py":
                compile(text, title, "exec")
        elif language == "console":
            lines = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
            assert lines, f"{page}: a console without a command"
            for line in lines:
                run(["bash", "-euo", "pipefail", "-c", line], tmp_path)
        else:
            assert language == "python", f"{page}: a block of {language} without a title"
            run([sys.executable, "-"], tmp_path, text)


def test_the_reference_of_commands_is_what_the_commands_say():
    sys.path.insert(0, str(DOCS))
    try:
        import commands
    finally:
        sys.path.remove(str(DOCS))
    written = (DOCS / "reference/commands.md").read_text()
    assert written == commands.page(), "python docs/commands.py"


def test_every_page_is_in_the_navigation():
    listed = (DOCS.parent / "mkdocs.yml").read_text()
    for page in DOCS.rglob("*.md"):
        assert str(page.relative_to(DOCS)) in listed, page

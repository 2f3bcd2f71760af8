"""Draws what `shoal demo` prints as docs/demo.svg.

FORCE_COLOR=1 COLUMNS=130 shoal demo 2>/dev/null | python docs/picture.py
"""

import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

lines = sys.stdin.read().splitlines()
done = next(i for i, line in enumerate(lines) if "done" in line)
serve = next(i for i, line in enumerate(lines) if "shoal serve:" in line)
shown = [*lines[: done + 1], "", "…", *lines[serve:]]
console = Console(record=True, width=126, file=Path("/dev/null").open("w"))
for line in shown:
    console.print(Text.from_ansi(line.rstrip()), no_wrap=True, crop=True)
svg = console.export_svg(title="shoal demo")
# The picture must not fetch fonts from anywhere.
svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
# Viewers that collapse white space would shift what follows a coloured word.
svg = svg.replace("<text ", '<text xml:space="preserve" ')
(Path(__file__).parent / "demo.svg").write_text(svg)

"""Writes docs/reference/commands.md from the commands' own help: python docs/commands.py"""

import inspect
from pathlib import Path

import click

from shoal.cli import cli

HEAD = """# Commands

Written from the commands' own help by `python docs/commands.py`. Each takes `--project` and
`--profile`, and `--json` where it prints results. Exit codes: 0 done, 1 a part failed, 2 the
command line or the project is wrong, 75 try again (nothing was lost), 130 interrupted.
"""


def page() -> str:
    with click.Context(cli, info_name="shoal") as context:
        names = cli.list_commands(context)
        parts = [_section(cli.commands[name], f"shoal {name}", "##") for name in names]
    return "\n".join([HEAD, *parts])


def _section(command: click.Command, name: str, level: str) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    text = inspect.cleandoc((command.help or "").replace("\b", ""))
    lines = [f"{level} {name}", "", f"`{name} {usage}`", "", text, ""]
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    if options:
        lines += ["| option | |", "| --- | --- |"]
        for option in options:
            found = option.get_help_record(context)
            if found:
                spelled, told = (part.replace("|", "\\|").replace("\n", " ") for part in found)
                lines.append(f"| `{spelled}` | {told.replace('[', chr(92) + '[')} |")
        lines.append("")
    if command.epilog:
        lines += ["```text", command.epilog.removeprefix("Example:").strip(), "```", ""]
    if isinstance(command, click.Group):
        lines += [
            _section(command.commands[sub], f"{name} {sub}", level + "#")
            for sub in command.list_commands(context)
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    (Path(__file__).parent / "reference/commands.md").write_text(page(), encoding="utf-8")

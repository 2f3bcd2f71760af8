"""SQL in a notebook: ``%load_ext shoal.notebook``, then a cell that begins ``%%shoal``.

    %%shoal --limit 1000 --into delays
    SELECT carrier, avg(arr_delay) AS delay FROM silver.flights GROUP BY carrier

Tables, fleets, plans, runs, evaluations and promotions show themselves as HTML without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.workspace import Workspace

__all__ = ["load_ipython_extension", "unload_ipython_extension"]

_OPEN = "_shoal_workspace"
_ROWS = 10_000


def load_ipython_extension(shell: Any) -> None:
    """Called by ``%load_ext shoal.notebook``.

    Args:
        shell: IPython's shell.
    """

    def shoal(line: str, cell: str | None = None) -> Any:
        """Runs a query over the lake: ``%shoal SELECT ...``, or a cell below ``%%shoal``.

        Before the cell's query may stand ``--project FOLDER`` (by default the one found upward
        from here), ``--limit ROWS`` (10,000) and ``--into NAME``: the variable that gets the
        pandas frame instead of the cell's output.
        """
        asked, query = _asked(line, cell)
        space = _workspace(shell, asked.pop("project", None))
        rows = space.sql(query, limit=_limit(asked.get("limit")))
        frame = rows.to_pandas()
        if name := asked.get("into"):
            shell.push({name: frame})
            return None
        return frame

    shell.register_magic_function(shoal, magic_kind="line_cell", magic_name="shoal")


def unload_ipython_extension(shell: Any) -> None:
    """Called by ``%unload_ext shoal.notebook``; closes the workspace that the magic opened."""
    opened = shell.user_ns_hidden.pop(_OPEN, None)
    if opened is not None:
        opened[1].close()


def _asked(line: str, cell: str | None) -> tuple[dict[str, str], str]:
    """The options of a magic, and its query.

    Raises:
        ProjectError: An option is unknown.
    """
    import shlex

    from shoal.errors import ProjectError, nearest

    if cell is None:
        return {}, line
    words, found = shlex.split(line), {}
    while words:
        word = words.pop(0)
        name = word.removeprefix("--")
        if name not in {"project", "limit", "into"} or not word.startswith("--") or not words:
            close = nearest(name, ["project", "limit", "into"])
            raise ProjectError(
                f"%%shoal does not know '{word}'." if words else f"'{word}' lacks its value.",
                hint=f"Did you mean --{close}?" if close else "--project, --limit or --into",
            )
        found[name] = words.pop(0)
    if (into := found.get("into")) is not None and not into.isidentifier():
        raise ProjectError(f"'{into}' cannot be a variable's name.")
    return found, cell


def _limit(text: str | None) -> int:
    from shoal.errors import ProjectError

    if text is None:
        return _ROWS
    if not text.isdigit():
        raise ProjectError(f"--limit is '{text}'; expected a number of rows.")
    return int(text)


def _workspace(shell: Any, folder: str | None) -> Workspace:
    """The workspace of a folder, opened by the first query and kept."""
    from pathlib import Path

    from shoal.workspace import Workspace

    where = str(Path(folder or ".").absolute())
    kept = shell.user_ns_hidden.get(_OPEN)
    if kept is not None and kept[0] == where:
        space: Workspace = kept[1]
        return space
    opened = Workspace.open(where)
    if kept is not None:
        kept[1].close()
    shell.user_ns_hidden[_OPEN] = (where, opened)
    return opened

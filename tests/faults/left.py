"""What lies in a lake that no version of a table and no flow's progress needs."""

from pathlib import Path
from urllib.parse import unquote

from shoal.lake import Lake


def litter(lake: Lake) -> set[Path]:
    """Parquet files that neither a version of a table nor the present progress of a flow names."""
    there = set(lake.root.rglob("*.parquet"))
    for table in lake.tables():
        folder = Path(table.path)
        named = table.changes(after=-1, until=table.version()).files
        there -= {Path(file.path) for file in named}
        there -= set(folder.glob("_delta_log/*.parquet"))
        for flow in folder.glob("_shoal/*"):
            state = table.progress(unquote(flow.name)).state
            there -= set(flow.glob(f"{state}/**/*.parquet"))
    return there

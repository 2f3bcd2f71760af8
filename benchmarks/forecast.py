"""Forecasting the energy example's meters, against StatsForecast on the same box.

The same series (half hours of made-up meters over the state's real demand), the same horizon (the
last day), the same measure: the mean over the series of the mean absolute scaled error, by the
seasonal naive forecast of a day (Hyndman and Koehler, "Another look at measures of forecast
accuracy", 2006). Series per second are from one Delta table of shuffled readings to forecasts, with
as many processes: Shoal's through a committed fleet of models, StatsForecast's through a data frame
that is sorted and whose gaps are filled, as it needs it. Slow models get fewer series, drawn by
chance, and their share of the time for reading: the column says how many, and the last one how
Shoal's Holt-Winters (day, multiplied) did on just those.

    python benchmarks/forecast.py                  # 200 meters
    python benchmarks/forecast.py --meters 5000
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import runpy
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

DAY = 48
OURS = "HoltWinters (day, multiplied)"
LAND = Path(__file__).parent.parent / "src/shoal/cli/templates/energy/land.py"
UNTIL = dt.date(2014, 11, 30)
WEATHER = ["work_day", "work_begins_or_ends", "temperature", "cooling", "heating"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one model did.

    Attributes:
        side: Who ran it.
        model: Its name.
        series: How many series it was given.
        seconds: From rows to forecasts.
        mase: Of each series, by ``meter_id``; those without a forecast are left out.
    """

    side: str
    model: str
    series: int
    seconds: float
    mase: pl.DataFrame


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--meters", type=int, default=200)
    parser.add_argument("--days", type=int, default=56, help="days to learn from")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peer-seconds", type=float, default=60, help="for each slow peer, about")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-forecast-") as folder:
        rows, weather = land(Path(folder), options.meters, options.days)
        cut = rows["read_at"].max() - dt.timedelta(days=1)
        past, future = rows.filter(pl.col("read_at") <= cut), rows.filter(pl.col("read_at") > cut)
        known = past["meter_id"].unique()
        future = future.filter(pl.col("meter_id").is_in(known.implode()))
        scale = scales(past)
        results = shoal_side(Path(folder), past, future, weather, scale, options)
        results += peer_side(Path(folder), future, scale, options)
    report(options, past, results)


def land(folder: Path, meters: int, days: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Readings without faults, and what is known of each half hour."""
    land = runpy.run_path(str(LAND))["land"]
    land(folder / "landing", meters, days + 1, UNTIL)
    files = folder / "landing" / "readings" / "*.parquet"
    rows = pl.read_parquet(files).filter(pl.col("kwh").is_between(0, 500, closed="left"))
    weather = pl.read_csv(folder / "landing" / "weather.csv", try_parse_dates=True)
    turn = pl.col("half_hour") * (2 * np.pi / DAY)
    waves = {
        "day_sin": turn.sin(),
        "day_cos": turn.cos(),
        "half_sin": (2 * turn).sin(),
        "half_cos": (2 * turn).cos(),
    }
    weather = weather.sort("read_at").with_columns(
        pl.col("read_at").dt.replace_time_zone("UTC")
        if weather["read_at"].dtype.time_zone is None
        else pl.col("read_at"),
        pl.col("work_day").cast(pl.Float64),
        work_begins_or_ends=(pl.col("work_day") - pl.col("work_day").shift(DAY, fill_value=0)).cast(
            pl.Float64
        ),
        cooling=(pl.col("temperature") - 24).clip(0),
        heating=(16 - pl.col("temperature")).clip(0),
        **waves,
        **{f"work_{name}": pl.col("work_day") * wave for name, wave in waves.items()},
    )
    return rows.sort("meter_id", "read_at"), weather.with_columns(
        pl.col("read_at").cast(rows["read_at"].dtype)
    )


def scales(past: pl.DataFrame) -> pl.DataFrame:
    """What each series' errors are divided by."""
    before = past.select("meter_id", pl.col("read_at") + dt.timedelta(days=1), before="kwh")
    return (
        past.join(before, on=["meter_id", "read_at"])
        .group_by("meter_id")
        .agg(scale=(pl.col("kwh") - pl.col("before")).abs().mean())
    )


def mase(future: pl.DataFrame, forecasts: pl.DataFrame, scale: pl.DataFrame) -> pl.DataFrame:
    """Each series' scaled error."""
    both = future.join(forecasts, on=["meter_id", "read_at"]).join(scale, on="meter_id")
    each = both.group_by("meter_id").agg(
        mase=((pl.col("kwh") - pl.col("forecast")).abs() / pl.col("scale")).mean()
    )
    return each.filter(pl.col("mase").is_finite())


def shoal_side(
    folder: Path,
    past: pl.DataFrame,
    future: pl.DataFrame,
    weather: pl.DataFrame,
    scale: pl.DataFrame,
    options: argparse.Namespace,
) -> list[Result]:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from shoal.forecast import HoltWinters, SeasonalNaive
    from shoal.lake import Lake

    lake = Lake(folder / "lake")
    mixed = past.sample(fraction=1, shuffle=True, seed=0)
    lake.table("silver.readings").append(mixed.to_arrow())
    everything = with_lags(pl.concat([past, future]), weather)
    cut = past["read_at"].max()
    learned = everything.filter(pl.col("read_at") <= cut).drop_nulls()
    lake.table("gold.load_features").append(
        learned.sample(fraction=1, shuffle=True, seed=0).to_arrow()
    )
    asked = everything.filter(pl.col("read_at") > cut)
    asked = future.select("meter_id", "read_at").join(
        asked.drop("kwh"), on=["meter_id", "read_at"], how="left"
    )
    models: dict[str, tuple[str, Callable[[], Any]]] = {
        "SeasonalNaive (day)": ("silver.readings", lambda: SeasonalNaive(DAY)),
        "SeasonalNaive (week)": ("silver.readings", lambda: SeasonalNaive(7 * DAY)),
        "HoltWinters (day)": ("silver.readings", lambda: HoltWinters(DAY, trend=None)),
        OURS: (
            "silver.readings",
            lambda: HoltWinters(DAY, trend=None, seasonal="mul"),
        ),
        "the example's lag regression": (
            "gold.load_features",
            lambda: make_pipeline(StandardScaler(), Ridge()),
        ),
    }
    return [
        one_fleet(lake, name, table, build, asked, future, scale, options.workers)
        for name, (table, build) in models.items()
    ]


def with_lags(rows: pl.DataFrame, weather: pl.DataFrame) -> pl.DataFrame:
    """The features of the example's `gold.load_features`."""
    for name, days in (("yesterday", 1), ("last_week", 7)):
        lag = rows.select(
            "meter_id", pl.col("read_at") + dt.timedelta(days=days), pl.col("kwh").alias(name)
        )
        rows = rows.join(lag, on=["meter_id", "read_at"], how="left")
    rows = rows.with_columns(
        lag_48=pl.coalesce("yesterday", "last_week"), lag_336=pl.coalesce("last_week", "yesterday")
    ).drop("yesterday", "last_week")
    known = weather.drop("day", "half_hour")
    return rows.join(known, on="read_at", how="left")


def one_fleet(
    lake: Any,
    name: str,
    table: str,
    build: Callable[[], Any],
    asked: pl.DataFrame,
    future: pl.DataFrame,
    scale: pl.DataFrame,
    workers: int,
) -> Result:
    from shoal.models import Fleet, collecting_models, model
    from shoal.training import train

    with collecting_models() as found:
        model(
            table=table,
            target="kwh",
            by=["meter_id"],
            time="read_at",
            holdout=0.0,  # StatsForecast measures nothing either: the last day is held back here
            name="load",
        )(build)
    begun = time.perf_counter()
    trained = train(found[0], lake, workers=workers)
    told = Fleet.open(trained.artifact).predict(asked.to_arrow())
    seconds = time.perf_counter() - begun
    forecasts = asked.select("meter_id", "read_at").with_columns(
        forecast=pl.Series(told.column("prediction").to_numpy())
    )
    series = scale.height
    return Result(
        side="Shoal",
        model=name,
        series=series,
        seconds=seconds,
        mase=mase(future, forecasts, scale),
    )


def peer_side(
    folder: Path, future: pl.DataFrame, scale: pl.DataFrame, options: argparse.Namespace
) -> list[Result]:
    from statsforecast.models import MSTL, AutoETS, HoltWinters, SeasonalNaive

    models = {
        "SeasonalNaive (day)": SeasonalNaive(season_length=DAY),
        "SeasonalNaive (week)": SeasonalNaive(season_length=7 * DAY),
        "HoltWinters (day)": HoltWinters(season_length=DAY, error_type="A"),
        "AutoETS (day)": AutoETS(season_length=DAY),
        "MSTL (day and week)": MSTL(season_length=[DAY, 7 * DAY]),
    }
    from shoal.lake import Lake

    begun = time.perf_counter()
    filled = on_grid(Lake(folder / "lake").table("silver.readings").scan().collect())
    reading = time.perf_counter() - begun
    # One series tells how many there is time for.
    names = scale["meter_id"].sort().to_list()
    results = []
    for name, model in models.items():
        _, each = forecast(model, filled, names[:2], 1)
        most = max(int(options.peer_seconds / (each / 2) * options.workers), options.workers)
        some = np.random.default_rng(0).permutation(names)[:most].tolist()
        forecasts, seconds = forecast(model, filled, some, options.workers)
        left = scale.filter(pl.col("meter_id").is_in(some))
        results.append(
            Result(
                side="StatsForecast",
                model=name,
                series=len(some),
                seconds=seconds + reading * len(some) / len(names),
                mase=mase(future, forecasts, left),
            )
        )
    return results


def on_grid(past: pl.DataFrame) -> pl.DataFrame:
    """Every half hour of every meter: StatsForecast takes no gaps."""
    begun = past.group_by("meter_id").agg(pl.col("read_at").min().alias("first"))
    grid = past.select(pl.col("read_at").unique().sort()).join(begun, how="cross")
    grid = grid.filter(pl.col("read_at") >= pl.col("first")).drop("first")
    rows = grid.join(past, on=["meter_id", "read_at"], how="left").sort("meter_id", "read_at")
    return rows.with_columns(
        pl.col("kwh").interpolate().forward_fill().backward_fill().over("meter_id")
    )


def forecast(
    model: Any, rows: pl.DataFrame, names: list[str], workers: int
) -> tuple[pl.DataFrame, float]:
    """A day of forecasts, and the seconds they took."""
    from statsforecast import StatsForecast

    frame = rows.filter(pl.col("meter_id").is_in(names)).select(
        unique_id="meter_id", ds=pl.col("read_at").dt.replace_time_zone(None), y="kwh"
    )
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = StatsForecast(models=[model], freq="30m", n_jobs=workers).forecast(df=frame, h=DAY)
    seconds = time.perf_counter() - begun
    told = told.select(
        meter_id="unique_id",
        read_at=pl.col("ds").dt.replace_time_zone("UTC").cast(rows["read_at"].dtype),
        forecast=pl.col(told.columns[-1]),
    )
    return told, seconds


def report(options: argparse.Namespace, past: pl.DataFrame, results: list[Result]) -> None:
    """Print the table."""
    import statsforecast

    console = Console(width=110)
    table = Table(
        title=f"{options.meters:,} meters, {past.height:,} readings, the last day forecast; "
        f"{options.workers} processes; StatsForecast {statsforecast.__version__}"
    )
    for column in ("", "model", "series", "seconds", "series/s", "MASE", "Holt-Winters there"):
        table.add_column(column, justify="left" if column in ("", "model") else "right")
    ours = next(r.mase for r in results if r.model == OURS)
    for r in results:
        there = ours.join(r.mase, on="meter_id", how="semi")["mase"].mean()
        table.add_row(
            r.side,
            r.model,
            f"{r.series:,}",
            f"{r.seconds:.1f}",
            f"{r.series / r.seconds:,.1f}",
            f"{r.mase['mase'].mean():.3f}",
            f"{there:.3f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()

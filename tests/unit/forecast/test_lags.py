"""Regressions on a series' own earlier values, against scikit-learn on explicit lag columns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shoal.forecast import Fourier, Lags
from shoal.models import decode, encode

HOUR = 3600.0
START = 1.7e9 - 1.7e9 % HOUR


def times(count, begin=0):
    return START + HOUR * np.arange(begin, begin + count)


def series(count, seed=0):
    random = np.random.default_rng(seed)
    values = np.full(count, 20.0)
    for t in range(2, count):
        values[t] = 5 + 0.5 * values[t - 1] + 0.25 * values[t - 2] + random.normal()
    return values + 3 * np.sin(np.arange(count) * np.pi / 12)


def explicit(values, when, lags, means):
    """Lag columns made one by one, as a person would."""
    reach = max(*lags, *means, 1)
    rows = []
    for t in range(reach, len(values)):
        row = [values[t - lag] for lag in lags] + [np.mean(values[t - m : t]) for m in means]
        turn = when[t] % 86_400 * 2 * np.pi / 86_400
        rows.append([*row, np.sin(turn), np.cos(turn)])
    return np.array(rows), values[reach:]


@settings(max_examples=20, deadline=None)
@given(
    lags=st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True),
    means=st.lists(st.integers(1, 30), max_size=2, unique=True),
    seed=st.integers(0, 1000),
    ahead=st.integers(1, 40),
)
def test_it_is_ridge_regression_on_lag_columns_forecast_step_by_step(
    lags, means, seed, ahead
) -> None:
    values, when = series(150, seed), times(150)
    forecaster = Lags(lags, means=means, waves=Fourier(period="1d", order=1), alpha=2.0)
    found = forecaster.fit(when[:, None], values).predict(times(ahead, 150)[:, None])
    rows, target = explicit(values, when, lags, means)
    ours, ours_target = forecaster.table(when[:, None], values)
    np.testing.assert_allclose(ours, rows, atol=1e-6)
    assert ours_target.tolist() == target.tolist()
    model = make_pipeline(StandardScaler(), Ridge(alpha=2.0)).fit(rows, target)
    known = values.tolist()
    for moment in times(ahead, 150):
        extended, so_far = np.array([*known, np.nan]), [*times(len(known)), moment]
        known.append(float(model.predict(explicit(extended, so_far, lags, means)[0][-1:])[0]))
    np.testing.assert_allclose(found, known[150:], rtol=1e-7)


def test_many_series_are_fitted_to_the_bits_of_each_alone() -> None:
    forecaster = Lags(3, means=[12], waves=Fourier(period="1d"))
    data = [(times(60 + 7 * i, i), series(60 + 7 * i, i)) for i in range(5)]
    data[2] = (np.delete(data[2][0], [5, 40]), np.delete(data[2][1], [5, 40]))
    data.insert(1, (times(4), series(4)))
    learned, at = forecaster.fit_many(*zip(*data, strict=True))
    assert at.tolist() == [0, 2, 3, 4, 5]
    for k, i in enumerate(at.tolist()):
        alone = clone(forecaster).fit(data[i][0][:, None], data[i][1])
        for name, stack in learned.items():
            assert stack[k].tobytes() == np.asarray(getattr(alone, name)).tobytes(), name


def test_any_regressor_may_stand_behind_the_lags_and_is_stored() -> None:
    values, when = series(200), times(200)
    trees = HistGradientBoostingRegressor(max_iter=10, random_state=0)
    fitted = Lags([1, 2], regressor=trees).fit(when[:, None], values)
    rows, target = fitted.table(when[:, None], values)
    expected = clone(trees).fit(rows, target)
    first = fitted.predict(times(1, 200)[:, None])[0]
    assert first == expected.predict([[values[-1], values[-2]]])[0]
    second = fitted.predict(times(2, 200)[:, None])[1]
    assert second == expected.predict([[first, values[-1]]])[0]
    encoded = encode(fitted)
    again = decode(encoded.template, encoded.state)
    later = times(30, 195)[:, None]
    assert again.predict(later).tobytes() == fitted.predict(later).tobytes()
    assert not fitted.at_once


def test_moments_of_the_training_rows_far_ones_and_gaps_have_an_answer() -> None:
    values, when = series(100), times(100)
    whole = Lags(2).fit(when[:, None], values)
    assert whole.predict(when[:5, None]).tolist() == [values.mean()] * 5
    far = whole.predict(np.array([[START + HOUR * 10**7]]))
    assert np.isfinite(far).all()
    missing = np.delete(np.arange(100), [50, 99 - 1])
    gaps = Lags(2).fit(when[missing, None], values[missing])
    assert gaps.tail_.tolist() == [values[97], values[99]]
    assert len(gaps.table(when[missing, None], values[missing])[1]) == 100 - 2 - 3 - 2


@pytest.mark.parametrize(
    ("forecaster", "count", "said"),
    [
        (Lags(0), 50, "lags is 0"),
        (Lags([]), 50, "lags is"),
        (Lags([1, -2]), 50, "expected steps back"),
        (Lags(1, means=[2.5]), 50, "means is"),
        (Lags(1, alpha=0.0), 50, "alpha is 0.0"),
        (Lags(24), 25, "needs 26 steps"),
        (Lags(1, waves=Fourier(), step="month"), 50, "waves need times"),
    ],
)
def test_what_cannot_be_learned_is_told(forecaster, count, said) -> None:
    with pytest.raises(ValueError, match=said):
        forecaster.fit(times(count)[:, None], series(count))

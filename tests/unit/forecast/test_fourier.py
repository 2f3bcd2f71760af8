import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline

from shoal.forecast import Fourier
from shoal.models import decode, encode
from shoal.models.columns import by_position


def test_waves_stand_in_the_place_of_the_time() -> None:
    rows = np.array([[1.0, 0.0, 5.0], [2.0, 6.0 * 3600, 6.0], [3.0, 1.4e9, 7.0]])
    found = Fourier(1, period=("1d", "2h"), order=(2, 1)).fit_transform(rows)
    turn = 2 * np.pi * rows[:, 1] / 86_400
    waves = [np.sin(turn), np.cos(turn), np.sin(2 * turn), np.cos(2 * turn)]
    waves += [np.sin(12 * turn), np.cos(12 * turn)]
    assert found[:, :2].tolist() == rows[:, [0, 2]].tolist()
    np.testing.assert_allclose(found[:, 2:], np.array(waves).T, atol=1e-6)
    kept = Fourier(1, period=("1d", "2h"), order=(2, 1), keep=True).fit_transform(rows)
    assert kept[:, 1].tolist() == rows[:, 1].tolist()
    assert kept[:, 3:].tobytes() == found[:, 2:].tobytes()


@given(st.integers(0, 2**31), st.integers(1, 1000), st.integers(1, 5))
def test_a_row_has_the_same_waves_a_period_later(moment, periods, order) -> None:
    waves = Fourier(period="1w", order=order)
    one, other = waves.fit_transform([[moment], [moment + periods * 604_800]])
    assert one.tobytes() == other.tobytes()


def test_a_regression_on_waves_finds_a_season() -> None:
    when = np.arange(500.0)[:, None] * 3600 + 1.4e9
    target = 3 + 2 * np.sin(2 * np.pi * when[:, 0] / 86_400 + 1)
    model = make_pipeline(Fourier(order=1), LinearRegression()).fit(when, target)
    later = when + 1e7
    np.testing.assert_allclose(
        model.predict(later), 3 + 2 * np.sin(2 * np.pi * later[:, 0] / 86_400 + 1), atol=1e-6
    )
    encoded = encode(model)
    assert (
        decode(encoded.template, encoded.state).predict(later).tobytes()
        == model.predict(later).tobytes()
    )


def test_the_column_may_be_named() -> None:
    pipeline = make_pipeline(Fourier("at", period=24), Ridge())
    assert by_position(pipeline, ["x", "at", "z"])
    assert pipeline[0].column == 1
    with pytest.raises(Exception, match="A Fourier names column 'att'"):
        by_position(make_pipeline(Fourier("att"), Ridge()), ["x", "at"])


@pytest.mark.parametrize(
    ("waves", "said"),
    [
        (Fourier(period="1 moon"), "period is '1 moon'"),
        (Fourier(period=0), "period is 0"),
        (Fourier(order=0), "order is 0"),
        (Fourier(period=("1d", "1w"), order=(1,)), "2 periods, but 1 orders"),
        (Fourier(3), "column 3 of 1 columns"),
        (Fourier("at"), "make Fourier the first step"),
    ],
)
def test_wrong_settings_are_told(waves, said) -> None:
    with pytest.raises(ValueError, match=said):
        waves.fit(np.zeros((3, 1)))

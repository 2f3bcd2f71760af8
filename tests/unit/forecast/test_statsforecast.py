import numpy as np
import pytest

from shoal.errors import ModelError
from shoal.forecast import SeasonalNaive, StatsForecastModel, wrap
from shoal.models import ModelDeclaration, decode, encode

models = pytest.importorskip("statsforecast.models")

T = 3600.0 * np.arange(240) + 1.4e9


def series(seed=0):
    random = np.random.default_rng(seed)
    return 20 + 4 * np.sin(np.arange(240) * 2 * np.pi / 24) + random.normal(size=240)


@pytest.mark.parametrize(
    "model",
    [
        models.SeasonalNaive(season_length=24),
        models.AutoETS(season_length=24, model="ANA"),
        models.MSTL(season_length=[12, 24], trend_forecaster=models.Theta(season_length=1)),
        models.HoltWinters(season_length=24, error_type="A"),
        models.AutoARIMA(season_length=1, max_p=1, max_q=1),
    ],
    ids=str,
)
def test_it_forecasts_what_the_model_does(model) -> None:
    wrapped = wrap(model, horizon=50).fit(T[:, None], series())
    expected = model.new().fit(series()).predict(h=50)["mean"]
    later = T[-1] + 3600 * np.arange(1, 51)
    assert wrapped.predict(later[:, None]).tobytes() == np.asarray(expected, float).tobytes()
    encoded = encode(wrapped)
    again = decode(encoded.template, encoded.state)
    assert again.predict(T[:, None]).tobytes() == wrapped.predict(T[:, None]).tobytes()
    assert encode(wrap(model, horizon=50).fit(T[:, None], series(1))).template == encoded.template


def test_ours_is_theirs_for_the_seasonal_naive() -> None:
    theirs = wrap(models.SeasonalNaive(24), horizon=60).fit(T[:, None], series())
    ours = SeasonalNaive(24).fit(T[:, None], series())
    later = (T[-1] + 3600 * np.arange(-50, 61))[:, None]
    assert theirs.predict(later).tolist() == ours.predict(later).tolist()


def test_beyond_the_horizon_there_is_no_forecast() -> None:
    wrapped = wrap(models.Naive(), horizon=2).fit(T[:, None], series())
    later = (T[-1] + 3600 * np.arange(1, 5))[:, None]
    assert np.isnan(wrapped.predict(later)).tolist() == [False, False, True, True]
    long = wrap(models.Naive()).fit(T[:, None], series())
    assert len(long.path_) == 120


def test_gaps_are_bridged_by_straight_lines() -> None:
    values = np.arange(240.0)
    kept = np.random.default_rng(0).random(240) > 0.1
    kept[[0, -1]] = True
    model = models.RandomWalkWithDrift()
    wrapped = wrap(model).fit(T[kept, None], values[kept])
    np.testing.assert_allclose(wrapped.predict([[T[-1] + 3600]]), [240], rtol=1e-12)


def test_a_declared_function_may_return_the_model_itself() -> None:
    def declared(function):
        return ModelDeclaration(
            name="load",
            table="t",
            target="y",
            time="at",
            by=("m",),
            function=function,
            location="x.py:1",
        )

    built = declared(lambda: models.AutoETS(season_length=24)).build()
    assert type(built) is StatsForecastModel
    assert built.model["class"] == "statsforecast.models.AutoETS"
    from statsforecast.utils import ConformalIntervals

    intervals = ConformalIntervals(h=24, n_windows=2)
    with pytest.raises(ModelError, match=r"x.py:1.*interval=0.9"):
        declared(lambda: models.Naive(prediction_intervals=intervals)).build()


def test_only_models_of_statsforecast_are_made() -> None:
    with pytest.raises(ValueError, match=r"os.path is none of StatsForecast's"):
        StatsForecastModel({"class": "os.path"}).fit(T[:, None], series())
    with pytest.raises(ValueError, match="cannot be written down"):
        wrap(object())


def test_other_columns_are_taken_by_models_that_are_lines_in_them() -> None:
    random = np.random.default_rng(3)
    others = random.normal(size=(240, 2))
    values = series() + others @ [2.0, -1.0]
    model = models.ARIMA(order=(1, 0, 0))
    rows = np.column_stack([T, others])
    wrapped = wrap(model, horizon=30).fit(rows[::-1], values[::-1])
    expected = model.new().fit(values, X=others)
    later, ahead = T[-1] + 3600 * np.arange(1, 31), random.normal(size=(30, 2))
    found = wrapped.predict(np.column_stack([later, ahead]))
    np.testing.assert_allclose(found, expected.predict(h=30, X=ahead)["mean"], rtol=1e-9)
    encoded = encode(wrapped)
    again = decode(encoded.template, encoded.state)
    assert again.predict(rows).tobytes() == wrapped.predict(rows).tobytes()
    with pytest.raises(ValueError, match="AutoETS forecasts from the time alone"):
        wrap(models.AutoETS(season_length=24)).fit(rows, values)
    with pytest.raises(ValueError, match="no straight line in the other features"):
        wrap(models.MFLES(season_length=24), horizon=24).fit(rows, values)

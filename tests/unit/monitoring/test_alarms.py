"""False alarms, hysteresis, and losses against what was promised."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from shoal.monitoring import judge, losses

NAME = [("feature", '["a"]', "x")]


def test_an_alarm_opens_after_windows_in_a_row_and_closes_after_quiet_ones():
    state: dict = {}
    told = []
    #         large   large   small   large  large  between  quiet  quiet
    windows = [(1e-9, 2.0), (1e-9, 2.0), (0.5, 0.1), (1e-9, 1.5), (1e-9, 1.5), (1e-9, 0.7)]
    windows += [(1e-9, 0.2), (0.9, 0.2)]
    for p, effect in windows:
        found = judge(
            NAME, np.array([p]), np.array([effect]), state, alpha=0.05, raise_after=2, clear_after=2
        )
        state = {NAME[0]: (int(found.streak[0]), bool(found.alarm[0]))}
        told.append((str(found.changed[0]), bool(found.alarm[0])))
    assert told == [
        ("", False),
        ("opened", True),
        ("", True),
        ("", True),
        ("", True),
        ("", True),
        ("", True),
        ("closed", False),
    ]


def test_an_alarm_stays_where_only_the_others_were_quiet():
    """What was found among many is judged by itself from then on."""
    names = [("error", f'["{i}"]', "mae") for i in range(200)]
    p = np.full(200, 0.6)
    p[0] = 1e-5
    effect = np.full(200, 2.0)
    first = judge(names, p, effect, {}, alpha=0.05)
    assert first.alarm.tolist() == [True] + [False] * 199
    state = {name: (int(s), bool(a)) for name, s, a in zip(
        names, first.streak, first.alarm, strict=True)}  # fmt: skip
    p[0] = 0.005  # not enough to be found among 200, but no chance either
    second = judge(names, p, effect, state, alpha=0.05)
    assert second.q[0] > 0.05
    assert (bool(second.alarm[0]), str(second.changed[0])) == (True, "")
    p[0] = 0.3
    third = judge(names, p, effect, state, alpha=0.05)
    assert str(third.changed[0]) == "closed"


def test_ten_thousand_segments_without_drift_raise_next_to_no_alarm():
    random = np.random.default_rng(0)
    p = random.random(10_000)
    names = [("feature", str(i), "x") for i in range(10_000)]
    found = judge(names, p, np.full(10_000, 5.0), {}, alpha=0.05)
    assert found.over.sum() <= 1
    p[:100] = 1e-8  # a hundred that did
    found = judge(names, p, np.full(10_000, 5.0), {}, alpha=0.05)
    assert found.over[:100].all()
    assert found.over[100:].sum() <= 12


def test_a_large_sample_alone_raises_no_alarm():
    found = judge(NAME, np.array([1e-30]), np.array([0.3]), {}, alpha=0.05)
    assert not found.alarm[0]


def test_losses_are_tested_against_the_holdout():
    random = np.random.default_rng(0)
    keys = [("a",), ("b",), ("c",)]
    codes = np.repeat([0, 1, 2], 200)
    truth = random.normal(size=600)
    guess = truth + random.normal(size=600) * np.repeat([1.0, 2.0, 1.0], 200)
    guess[450] = np.nan
    promised = {'["a"]': (0.8, 200), '["b"]': (0.8, 200)}
    told = {
        row["segment"]: row
        for row in losses("mae", truth, guess, codes, keys, promised).to_pylist()
    }
    assert told['["a"]']["p"] > 0.05
    assert told['["b"]']["p"] < 1e-6
    assert told['["b"]']["ratio"] == pytest.approx(np.abs(guess - truth)[200:400].mean() / 0.8)
    assert told['["c"]']["p"] is None  # nothing was promised
    assert told['["c"]']["rows"] == 199


def test_independent_losses_have_the_p_value_of_students_test():
    random = np.random.default_rng(3)
    error = np.abs(random.normal(size=50))
    error[1::2] = error[1::2][::-1]
    centred = error - error.mean()
    assert (centred[1:] * centred[:-1]).sum() < 0  # else the rows would count for fewer
    told = losses("mae", error, np.zeros(50), np.zeros(50, int), [("a",)], {'["a"]': (0.7, 40)})
    spread = error.std(ddof=1)
    wanted = stats.ttest_ind_from_stats(
        error.mean(), spread, 50, 0.7, spread * 0.7 / error.mean(), 40,
        equal_var=False, alternative="greater",
    ).pvalue  # fmt: skip
    assert told.column("p")[0].as_py() == pytest.approx(wanted)


def test_losses_that_linger_count_for_fewer_rows():
    random = np.random.default_rng(0)
    steps = np.repeat(np.abs(random.normal(size=20)), 10)  # each loss ten times over
    told = losses(
        "mae", steps, np.zeros(200), np.zeros(200, int), [("a",)], {'["a"]': (0.6, 10**6)}
    )
    naive = stats.ttest_1samp(steps, 0.6, alternative="greater").pvalue
    assert told.column("p")[0].as_py() > 5 * naive


def test_a_shape_that_every_day_has_hides_no_change():
    shape = 0.02 + 5 * np.exp(-(((np.arange(48) - 24) / 4) ** 2) / 2)  # all of it at noon
    random = np.random.default_rng(0)
    noise = np.exp(0.2 * random.normal(size=(7, 48)))
    worse = (1.3 * shape * noise).ravel()
    days = np.repeat(np.arange(7), 48)
    promised = {'["a"]': (float(shape.mean() * np.exp(0.02)), 11 * 48)}
    zeros = np.zeros(7 * 48)
    by_row = losses("mae", worse, zeros, zeros.astype(int), [("a",)], promised)
    by_day = losses("mae", worse, zeros, zeros.astype(int), [("a",)], promised, days)
    assert by_day.column("p")[0].as_py() < 1e-3 < by_row.column("p")[0].as_py()


@pytest.mark.parametrize(
    ("metric", "truth", "guess", "value"),
    [
        ("rmse", [0.0, 0.0], [3.0, 4.0], 12.5**0.5),
        ("accuracy", [0.0, 1.0], [0.0, 0.0], 0.5),
        ("mape", [2.0, 0.0], [1.0, 1.0], 0.5),
        ("smape", [1.0, 0.0], [3.0, 0.0], 0.5),
    ],
)
def test_each_metric_is_that_of_the_training(metric, truth, guess, value):
    told = losses(
        metric, np.array(truth), np.array(guess), np.zeros(2, int), [("a",)], {'["a"]': (0.1, 9)}
    )
    assert told.column("value")[0].as_py() == pytest.approx(value)

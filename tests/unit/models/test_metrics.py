from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from shoal.models.metrics import Held, metric_names, metric_sums, metric_values

REFERENCE = {
    "mae": sk.mean_absolute_error,
    "rmse": sk.root_mean_squared_error,
    "mape": sk.mean_absolute_percentage_error,
    "r2": sk.r2_score,
    "wape": lambda t, g: np.abs(t - g).sum() / np.abs(t).sum(),
    "smape": lambda t, g: np.mean(2 * np.abs(t - g) / (np.abs(t) + np.abs(g))),
    "bias": lambda t, g: np.mean(g - t),
    "pinball": sk.mean_pinball_loss,
    "pinball_90": partial(sk.mean_pinball_loss, alpha=0.9),
    "mase": lambda t, g: np.mean(np.abs(t - g)) / 4,
}


@pytest.mark.parametrize("name", [*metric_names("regression"), "pinball_90"])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(2, 9), min_size=1, max_size=5))
def test_sums_give_sklearns_values_per_segment_and_pooled(name, seed, sizes) -> None:
    random = np.random.default_rng(seed)
    truth = random.normal(loc=1e4, size=sum(sizes))
    guess = truth + random.normal(size=sum(sizes))
    starts = np.cumsum([0, *sizes[:-1]])
    scale = np.full(len(truth), 4.0)
    held = Held(truth=truth, guess=guess, scores=None, starts=starts, centre=1e4, scale=scale)
    sums = metric_sums(name, held)
    for value, start, size in zip(metric_values(name, sums), starts, sizes, strict=True):
        part = slice(start, start + size)
        assert value == pytest.approx(REFERENCE[name](truth[part], guess[part]), rel=1e-6)
    pooled = metric_values(name, sums.sum(axis=0, keepdims=True))[0]
    assert pooled == pytest.approx(REFERENCE[name](truth, guess), rel=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_classification_metrics_are_sklearns(classes) -> None:
    random = np.random.default_rng(classes)
    truth = random.integers(0, classes, 90)
    scores = random.dirichlet(np.ones(classes), 90)
    guess = scores.argmax(axis=1)
    held = Held(truth=truth, guess=guess, scores=scores, starts=np.array([0, 40]), classes=classes)
    labels = list(range(classes))
    average = "binary" if classes == 2 else "macro"
    expected = {
        "accuracy": lambda p: sk.accuracy_score(truth[p], guess[p]),
        "log_loss": lambda p: sk.log_loss(truth[p], scores[p], labels=labels),
        "f1": lambda p: sk.f1_score(truth[p], guess[p], average=average),
    }
    if classes == 2:
        expected["roc_auc"] = lambda p: sk.roc_auc_score(truth[p], scores[p, 1])
    for name, value in expected.items():
        found = metric_values(name, metric_sums(name, held))
        assert found == pytest.approx([value(slice(0, 40)), value(slice(40, 90))], rel=1e-9), name


def test_undefined_values_are_nan() -> None:
    held = Held(
        truth=np.array([1.0, 1.0]), guess=np.array([1.0, 2.0]), scores=None, starts=np.array([0])
    )
    assert np.isnan(metric_values("r2", metric_sums("r2", held)))[0]


def test_mase_leaves_out_what_has_no_scale() -> None:
    held = Held(
        truth=np.array([1.0, 2.0, 5.0]),
        guess=np.array([2.0, 4.0, 9.0]),
        scores=None,
        starts=np.array([0, 2]),
        scale=np.array([0.5, 0.5, 0.0]),
    )
    found = metric_values("mase", metric_sums("mase", held))
    assert found[0] == 3.0
    assert np.isnan(found[1])

"""The paired tests, against scipy's one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shoal.models.paired import paired, q_values


def losses(sizes, seed=0, shift=0.0, whole=False):
    random = np.random.default_rng(seed)
    rows = sum(sizes)
    first, second = random.exponential(size=(2, rows))
    if whole:
        first, second = first.round(), second.round()
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int)
    return first + shift, second, starts


def parts(first, second, starts):
    yield from zip(np.split(first, starts[1:]), np.split(second, starts[1:]), strict=True)


def test_each_segment_is_scipys_paired_t_test() -> None:
    given_ = losses([2, 3, 10, 50, 200], shift=0.3)
    found = paired(*given_, alpha=0.05)
    expected = [stats.ttest_rel(a, b).pvalue for a, b in parts(*given_)]
    assert found.p == pytest.approx(expected, rel=1e-12)
    assert found.q == pytest.approx(stats.false_discovery_control(expected), rel=1e-12)
    whole = stats.ttest_rel(given_[0], given_[1])
    assert found.pooled_p == pytest.approx(whole.pvalue, rel=1e-12)
    assert found.pooled_verdict == "won"


@pytest.mark.parametrize("whole", [False, True])  # with ties and zeros
def test_each_segment_is_scipys_signed_rank_test(whole) -> None:
    given_ = losses([12, 30, 200], shift=1.0 if whole else 0.2, whole=whole)
    found = paired(*given_, alpha=0.05, test="wilcoxon")
    for p, (a, b) in zip(found.p, parts(*given_), strict=True):
        ranks = stats.rankdata(np.abs(a - b)) * np.sign(a - b)
        z = ranks.sum() / np.sqrt((ranks**2).sum())
        assert p == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-10)
        if not whole:  # zeros rank in scipy's own variants
            theirs = stats.wilcoxon(a, b, method="asymptotic", correction=False).pvalue
            assert p == pytest.approx(theirs, rel=1e-9)


def test_verdicts_name_who_is_better() -> None:
    random = np.random.default_rng(1)
    base = random.exponential(size=(4, 40))
    second = base.copy()
    second[0] -= 0.5 + 0.1 * random.normal(size=40)
    second[1] += 0.5 + 0.1 * random.normal(size=40)
    second[2] *= 1 + 1e-13  # rounding is no difference
    found = paired(base.ravel(), second.ravel(), np.arange(0, 160, 40), alpha=0.05)
    assert found.verdict.tolist() == ["won", "lost", "tied", "tied"]
    assert found.p[2] == found.p[3] == 1.0
    assert found.gain[0] > 0 > found.gain[1]


def test_too_few_rows_are_no_test() -> None:
    found = paired(np.array([1.0, 2, 2]), np.array([0.0, 1, 1]), np.array([0, 1]), alpha=0.05)
    assert np.isnan(found.p[0]) and np.isnan(found.q[0])
    assert found.verdict[0] == "tied"
    alone = paired(np.array([1.0]), np.array([0.0]), np.array([0]), alpha=0.05)
    assert (alone.verdict.tolist(), alone.pooled_verdict) == (["tied"], "tied")


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
def test_of_equal_models_few_segments_are_called_different(test) -> None:
    """5% of rounds may name any segment; without the correction nearly all would."""
    wrong = 0
    for seed in range(40):
        found = paired(*losses([30] * 500, seed=seed), alpha=0.05, test=test)
        assert (found.p < 0.05).any()
        wrong += (found.verdict != "tied").any()
    assert wrong <= 7  # the chance of more is below 0.1%


def test_dependent_rows_of_a_segment_do_not_make_it_certain() -> None:
    random = np.random.default_rng(3)
    wrong = 0
    for _ in range(200):
        level = np.repeat(random.normal(size=30), 50)
        found = paired(
            level + 0.1 * random.normal(size=1500),
            0.1 * random.normal(size=1500),
            np.arange(0, 1500, 50),
            alpha=0.05,
        )
        wrong += found.pooled_verdict != "tied"
    assert wrong < 25  # rows taken for independent would say so in most rounds


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_q_values_are_benjamini_and_hochbergs(p) -> None:
    p = np.array(p)
    assert q_values(p) == pytest.approx(stats.false_discovery_control(p))
    spread = np.insert(p, len(p) // 2, np.nan)
    assert q_values(spread)[~np.isnan(spread)] == pytest.approx(q_values(p))

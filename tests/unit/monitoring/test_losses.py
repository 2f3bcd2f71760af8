"""A week of many segments: what is told as worse is, and what is not stays below the bound."""

from __future__ import annotations

import numpy as np
import pytest

from shoal.models.paired import q_values
from shoal.models.segments import segment_key
from shoal.monitoring import losses

SEGMENTS, DAYS, HELD_OUT, HOURS = 400, 7, 14, 24
KEYS = [(f"m{i:03}",) for i in range(SEGMENTS)]
NAMES = [segment_key(key) for key in KEYS]


def week(seed: int, worse: int, factor: float) -> np.ndarray:
    """q-values of segments, of which the first ones err more than their holdout promised."""
    random = np.random.default_rng(seed)
    level = np.exp(random.normal(size=SEGMENTS))  # some err ten times as much as others

    def days(count: int, factor: np.ndarray) -> np.ndarray:
        day = np.exp(0.2 * random.normal(size=(SEGMENTS, count, 1)))
        rows = np.abs(random.normal(size=(SEGMENTS, count, HOURS)))
        return (rows * day * (level * factor)[:, None, None]).reshape(SEGMENTS, -1)

    held = days(HELD_OUT, np.ones(SEGMENTS))
    promised = {
        name: (value, held.shape[1]) for name, value in zip(NAMES, held.mean(axis=1), strict=True)
    }
    error = days(DAYS, np.where(np.arange(SEGMENTS) < worse, factor, 1.0)).reshape(-1)
    codes = np.repeat(np.arange(SEGMENTS), DAYS * HOURS)
    blocks = np.tile(np.repeat(np.arange(DAYS), HOURS), SEGMENTS)
    found = losses("mae", error, np.zeros_like(error), codes, KEYS, promised, blocks)
    assert found.column("segment").to_pylist() == NAMES
    p = found.column("p").to_numpy()
    if not worse:
        assert np.mean(p < 0.05) < 0.06
    return q_values(p)


@pytest.mark.parametrize("seed", range(3))
def test_a_quiet_week_raises_nothing(seed) -> None:
    assert (week(seed, 0, 1.0) <= 0.05).sum() == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_half_more_is_found_in_a_week_among_four_hundred(seed) -> None:
    found = week(seed, 40, 1.5) <= 0.05
    assert found[:40].sum() > 20
    assert found[40:].sum() <= 2


def test_a_few_segments_are_tested_each_by_itself() -> None:
    random = np.random.default_rng(0)
    error = np.abs(random.normal(size=(3, DAYS, HOURS))) * [[[1.0]], [[1.0]], [[3.0]]]
    codes = np.repeat(np.arange(3), DAYS * HOURS)
    blocks = np.tile(np.repeat(np.arange(DAYS), HOURS), 3)
    promised = {name: (0.8, 14 * HOURS) for name in NAMES[:3]}
    flat = error.reshape(-1)
    found = losses("mae", flat, np.zeros_like(flat), codes, KEYS[:3], promised, blocks)
    assert (found.column("p").to_numpy() < 0.01).tolist() == [False, False, True]

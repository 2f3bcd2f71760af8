import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shoal.training.hashing import row_hashes

VALUES = st.floats(allow_nan=False, width=64)
ROWS = arrays.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(4)), elements=VALUES)


def hashed(rows, offsets=None) -> list[str]:
    moments = rows[:, 3].copy().view(np.int64)
    offsets = np.array([0, len(rows)]) if offsets is None else offsets
    return row_hashes(rows[:, :2], rows[:, 2], moments, offsets)


@given(rows=ROWS, data=st.data())
def test_order_does_not_count_and_everything_else_does(rows, data) -> None:
    (before,) = hashed(rows)
    order = data.draw(st.permutations(range(len(rows))))
    assert hashed(rows[order]) == [before]
    row, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 3))
    other = rows.copy()
    other[row, column] = data.draw(VALUES.filter(lambda v: v != rows[row, column]))
    assert hashed(other) != [before]
    assert hashed(rows[1:]) != [before]
    assert hashed(np.concatenate([rows, rows[:1]])) != [before]
    swapped = rows[:, [1, 0, 2, 3]]
    # Columns that trade places are other rows, unless nothing moved.
    assert (hashed(swapped) == [before]) == (
        sorted(map(tuple, swapped)) == sorted(map(tuple, rows))
    )


@given(rows=ROWS, cut=st.integers(0, 12))
def test_each_segment_has_its_own(rows, cut) -> None:
    cut = min(cut, len(rows))
    parts = [hashed(rows[:cut])[0], hashed(rows[cut:])[0]]
    assert hashed(rows, np.array([0, cut, len(rows)])) == parts

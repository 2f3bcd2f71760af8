import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shoal.training.hashing import own_order, row_marks, segment_hashes

VALUES = st.floats(allow_nan=False, width=64)
ROWS = arrays.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(4)), elements=VALUES)


def hashed(rows, offsets=None) -> list[str]:
    moments = rows[:, 3].copy().view(np.int64)
    offsets = np.array([0, len(rows)]) if offsets is None else offsets
    columns = [*rows.T, *([] if moments is None else [moments])]
    return segment_hashes(row_marks(columns), offsets)


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


@given(
    data=st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=8), max_size=5
    ),
    timed=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_rows_get_the_same_order_however_they_come(data, timed, seed) -> None:
    random = np.random.default_rng(seed)
    offsets = np.cumsum([0, *map(len, data)])
    found = []
    for _ in range(2):
        parts = [[part[i] for i in random.permutation(len(part))] for part in data]
        if timed:
            parts = [sorted(part, key=lambda row: row[0]) for part in parts]
        rows = np.array([row for part in parts for row in part], dtype=np.float64).reshape(-1, 2)
        moments = rows[:, 0].astype(np.int64) if timed else None
        order = own_order(moments, row_marks([rows[:, 0], rows[:, 1]]), offsets)
        rows = rows if order is None else rows[order]
        found.append(rows.tolist())
        for start, end, part in zip(offsets[:-1], offsets[1:], data, strict=True):
            assert sorted(map(tuple, rows[start:end])) == sorted(part)
            if timed:
                assert (np.diff(rows[start:end, 0]) >= 0).all()
    assert found[0] == found[1]


def test_seeds_give_unrelated_marks() -> None:
    rows = [np.arange(1_000.0)]
    first, second = (np.argsort(row_marks(rows, seed)) for seed in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15
    assert len(np.unique(row_marks(rows))) == 1_000


def test_rows_of_small_whole_numbers_have_marks_of_their_own() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(60.0)] * 3), axis=-1).reshape(-1, 3)
    for columns in (grid, grid * 10 + 1000, -grid / 8):
        marks = row_marks(list(columns.T))
        assert len(np.unique(marks)) == len(grid)

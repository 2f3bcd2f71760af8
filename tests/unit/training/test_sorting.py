"""Sorting in buckets gives what sorting at once gives, for any rows."""

import itertools
import tempfile
from pathlib import Path

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from shoal.lake import Lake
from shoal.models import ModelDeclaration, collecting_models, model
from shoal.training.hashing import own_order, row_marks
from shoal.training.plan import Plan
from shoal.training.rows import read_rows
from shoal.training.sorting import sort_rows
from shoal.training.source import open_source

ROW = st.tuples(
    st.sampled_from(["", "a", "ü", "a,b", "null", None]),
    st.one_of(st.none(), st.integers(-3, 3)),
    st.one_of(st.none(), st.integers(0, 3)),
    st.floats(allow_nan=True, allow_infinity=True),
)


def declare(**changes) -> ModelDeclaration:
    with collecting_models() as found:
        model(table="gold.t", target="y", by=["k", "n"], name="m", **changes)(Ridge)
    return found[0]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(ROW, min_size=1, max_size=60), timed=st.booleans(), budget=st.integers(1, 900))
def test_buckets_hold_the_same_rows_in_the_same_order(rows, timed, budget) -> None:
    keys, numbers, times, values = zip(*rows, strict=True)
    table = pa.table(
        {
            "k": pa.array(keys, pa.string()),
            "n": pa.array(numbers, pa.int64()),
            "t": pa.array(times, pa.int64()),
            "x": pa.array(values, pa.float64()),
            "y": [float(i) for i in range(len(rows))],
        }
    )
    declaration = declare(time="t" if timed else None, key=() if timed else ("t",))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        twin = table.slice(0, 1).set_column(4, "y", pa.array([-1.0]))
        Lake(folder / "lake").table("gold.t").append(pa.concat_tables([table, twin]))
        source = open_source(declaration, Lake(folder / "lake"), None)
        plan = Plan(declaration, source)
        found = []
        for part, size in (("once", 10**9), ("buckets", budget)):
            file = folder / f"{part}.arrow"
            sort_rows(declaration, source, plan.target, file, budget=size)
            found.append(in_own_order(pa.ipc.open_file(str(file)).read_all(), plan))
            assert [p.name for p in folder.glob("*.buckets")] == []
        assert found[0] == found[1]
        # The n-th segment's rows are those of the n-th key, by moment.
        frame = source.scan().collect().sort(["k", "n"], maintain_order=True)
        offsets = plan.segments.offsets.tolist()
        for start, end in itertools.pairwise(offsets):
            part = frame[start:end].sort("t") if timed else frame[start:end]
            moments = part["t"].to_list() if timed else [0] * (end - start)
            wanted = sorted(zip(moments, part["y"].to_list(), strict=True), key=repr)
            said = zip(moments, found[0][1][start:end], strict=True)
            assert sorted(said, key=repr) == wanted


def in_own_order(rows: pa.Table, plan: Plan) -> tuple[str, list[float]]:
    """The rows as the kernel fits them, and their targets."""
    read = read_rows(rows)
    order = own_order(read.moments, row_marks(read.columns()), plan.segments.offsets)
    own = read if order is None else read.take(order)
    return repr((own.features.tolist(), own.target.tolist())), own.target.tolist()


def test_the_budget_comes_from_the_environment(tmp_path, monkeypatch) -> None:
    lake = Lake(tmp_path / "lake")
    lake.table("gold.t").append(
        pa.table({"k": ["a", "b"] * 50, "n": [1] * 100, "x": range(100), "y": range(100)})
    )
    declaration = declare()
    source = open_source(declaration, lake, None)
    monkeypatch.setenv("SHOAL_SORT_MEMORY", "1")
    file = tmp_path / "rows.arrow"
    sort_rows(declaration, source, Plan(declaration, source).target, file)
    assert pa.ipc.open_file(str(file)).num_record_batches > 1

"""Values keep their type and every bit on their way to R and back."""

import datetime as dt
import decimal
import struct

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rcode import call_r, need_r
from shoal.errors import PipelineError

TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
TIMES = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1))
KINDS = {
    pa.bool_(): st.booleans(),
    pa.int32(): st.integers(-(2**31) + 1, 2**31 - 1),
    pa.int64(): st.integers(-(2**53), 2**53),
    pa.float64(): st.floats(),
    pa.string(): TEXT | st.sampled_from(["", "NA", 'a "quoted"\nline\t\\', "Zoë 😀"]),
    pa.date32(): st.dates(),
    pa.timestamp("us", tz="UTC"): TIMES.map(lambda time: time.replace(tzinfo=dt.UTC)),
}


@pytest.fixture(autouse=True)
def r() -> None:
    need_r()


@st.composite
def tables(draw):
    """A table of up to 40 columns of any kinds, with nulls; often of few rows, or none."""
    rows = draw(st.integers(0, 25))
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=40))
    columns = [
        pa.array(draw(st.lists(st.none() | KINDS[kind], min_size=rows, max_size=rows)), kind)
        for kind in kinds
    ]
    names = draw(st.lists(TEXT.filter(bool), min_size=len(kinds), max_size=len(kinds), unique=True))
    return pa.table(columns, names=names)


def bits(table: pa.Table) -> list[list[object]]:
    """All values, doubles as bits: all NaN are one, and -0.0 is not 0.0."""

    def one(value: object) -> object:
        if not isinstance(value, float):
            return value
        return "NaN" if value != value else struct.pack("<d", value)

    return [[one(value) for value in column.to_pylist()] for column in table.columns]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables())
def test_any_table_comes_back_from_r_as_it_was(table) -> None:
    found = call_r("function(x) x", table).rows
    assert found.schema.equals(table.schema)
    assert bits(found) == bits(table)


def test_null_and_nan_stay_apart_in_what_r_computes() -> None:
    table = pa.table({"x": pa.array([1.0, None, float("nan")]), "s": pa.array(["", None, "NA"])})
    found = call_r(
        "function(t) data.frame(y = t$x + 1, na = is.na(t$x), nan = is.nan(t$x), "
        "empty = t$s == '', n = nchar(t$s))",
        table,
    ).rows
    assert bits(found) == [
        [struct.pack("<d", 2.0), None, "NaN"],
        [False, True, True],
        [False, False, True],
        [True, None, False],
        [0, None, 2],
    ]


def test_r_sees_the_types_it_knows() -> None:
    at = dt.datetime(2024, 7, 1, 12, 30, 15, 250_000, dt.UTC)
    table = pa.table({
        "b": [True], "tiny": pa.array([1], pa.int8()), "i": pa.array([2], pa.int32()), "l": [2**40],
        "f": pa.array([0.5], pa.float32()), "money": [decimal.Decimal("1.25")], "s": ["x"],
        "day": [dt.date(2024, 2, 29)], "at": pa.array([at], pa.timestamp("us", "UTC")),
        "clock": pa.array([at.replace(tzinfo=None)], pa.timestamp("us")), "none": pa.nulls(1),
    })  # fmt: skip
    found = call_r(
        """function(t) data.frame(name = names(t), class = sapply(t, function(x) class(x)[1]),
             text = c(format(t$l), format(t$day), format(t$at, "%H:%M:%OS2"), rep("", 8)))""",
        table,
    ).rows
    classes = dict(zip(found["name"].to_pylist(), found["class"].to_pylist(), strict=True))
    assert classes == {
        "b": "logical", "tiny": "integer", "i": "integer", "l": "bigint", "f": "numeric",
        "money": "numeric", "s": "character", "day": "Date", "at": "POSIXct", "clock": "POSIXct",
        "none": "logical",
    }  # fmt: skip
    assert found["text"].to_pylist()[:3] == ["1099511627776", "2024-02-29", "12:30:15.25"]


def test_a_bigint_behaves_like_an_integer_of_r() -> None:
    table = pa.table({"n": pa.array([3, None, 2**53 - 1, 100_000])})
    found = call_r(
        """function(t) {
          n <- t$n
          stopifnot(paste(n[4]) == "100000", n[3] > n[1], identical(order(n), c(1L, 4L, 3L, 2L)))
          stopifnot(100000 %in% n, mean(n[c(1, 4)]) == 50001.5, nrow(t[t$n == 3 & !is.na(t$n), , drop = FALSE]) == 1)
          out <- data.frame(same = n, more = n + 1L, half = n / 2, scaled = n * 1.5, rest = n %% 2L)
          out$first <- n[1]
          out$picked <- merge(t, data.frame(n = n, k = 1:4), sort = FALSE)$n
          out$changed <- replace(n, 2, 0L)
          out$sum <- sum(n, na.rm = TRUE)
          stopifnot(identical(capture.output(n[1]), "[1] 3"), nlevels(factor(n)) == 3)
          out
        }""",
        table,
    ).rows
    types = {field.name: str(field.type) for field in found.schema}
    assert types == {
        "same": "int64", "more": "int64", "half": "double", "scaled": "double", "rest": "int64",
        "first": "int64", "picked": "int64", "changed": "int64", "sum": "double",
    }  # fmt: skip
    assert found["more"].to_pylist() == [4, None, 2**53, 100_001]
    assert found["changed"].to_pylist() == [3, 0, 2**53 - 1, 100_000]


def test_factors_local_times_and_text_of_other_encodings_become_plain_columns() -> None:
    found = call_r(
        """function() data.frame(
             f = factor(c("x", NA), levels = c("y", "x")),
             t = as.POSIXlt(c("2024-07-01 12:00", NA), tz = "Europe/Berlin"),
             l = c(iconv("\\u00e9", "UTF-8", "latin1"), "e"), i = I(c(1L, NA)), n = c(a = 1, b = NA))"""
    ).rows
    assert found.to_pylist() == [
        {"f": "x", "t": dt.datetime(2024, 7, 1, 10, tzinfo=dt.UTC), "l": "é", "i": 1, "n": 1.0},
        {"f": None, "t": None, "l": "e", "i": None, "n": None},
    ]
    assert str(found.schema.field("t").type) == "timestamp[us, tz=UTC]"


GOING_IN = {
    "a whole number past 2^53": (pa.array([2**53 + 1]), "9007199254740993; R holds whole numbers"),
    "the integer that is NA": (pa.array([-(2**31)], pa.int32()), "NA in R"),
    "NUL in text": (pa.array(["a\0b"]), "NUL"),
    "lists": (pa.array([[1]]), "type list"),
    "bytes": (pa.array([b"x"]), "type binary"),
}


@pytest.mark.parametrize("case", GOING_IN)
def test_what_r_cannot_hold_is_refused_by_column_and_table(case) -> None:
    column, said = GOING_IN[case]
    with pytest.raises(PipelineError) as error:
        call_r("function(x) x", pa.table({"it": column}))
    assert "the column 'it' of 'table 0'" in str(error.value)
    assert said in str(error.value)
    assert "temporary view" in str(error.value)


COMING_BACK = {
    "a list column": ("data.frame(it = I(list(1, 2)))", "'it' is a list column"),
    "a matrix": ("{ d <- data.frame(a = 1:2); d$it <- diag(2); d }", "'it' is a matrix"),
    "a time difference": ("data.frame(it = as.difftime(1, units = 'secs'))", "a time difference"),
    "complex numbers": ("data.frame(it = 1i)", "'it' is complex"),
    "a broken bigint": ("data.frame(it = bigint(0.5))", "'it' from R has 0.5"),
    "an endless date": ("data.frame(it = as.Date(Inf, origin = '1970-01-01'))", "has inf"),
    "no data frame": ("list(it = 1)", "returned list; expected a data frame"),
    "a model": ("lm(1:3 ~ c(2, 1, 5))", "returned lm; expected a data frame"),
}


@pytest.mark.parametrize("case", COMING_BACK)
def test_what_no_table_can_hold_is_refused_by_column(case) -> None:
    code, said = COMING_BACK[case]
    with pytest.raises(PipelineError) as error:
        call_r(f"function() {code}")
    assert said in str(error.value)

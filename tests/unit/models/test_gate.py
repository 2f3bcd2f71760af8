import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ModelError
from shoal.models import ModelDeclaration
from shoal.models.gate import Gate

MINE = {"mae": 3.0, "skill": 0.2, "failed_share": 0.0}
THEIRS = {"mae": 3.1, "skill": 0.1}


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("mae < champion.mae * 0.99", True),
        ("mae < champion.mae * 0.9", False),
        ("mae < champion.mae and failed_share <= 0.01", True),
        ("mae > champion.mae or skill > 0", True),
        ("not (mae > champion.mae) and -skill < 0", True),
        ("0 < skill < 0.1", False),
        ("(champion.mae - mae) / champion.mae >= 0.03", True),
        ("mae / 0 < 1", False),
    ],
)
def test_conditions(text: str, passed: bool) -> None:
    assert Gate(text).judge(MINE, THEIRS).passed is passed


def test_the_numbers_are_told() -> None:
    result = Gate("mae < champion.mae * 0.9 and skill > 0").judge(MINE, THEIRS)
    assert result.said == (
        "mae < champion.mae * 0.9: 3 < 2.79 is false",
        "skill > 0: 0.2 > 0 is true",
    )
    assert result.values == {"mae": 3.0, "champion.mae": 3.1, "skill": 0.2}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("__import__('os').system('x') < 1", 1),
        ("mae < other.mae", 7),
        ("mae < champion.mae.real", 7),
        ("mae < champion", 7),
        ("mae < [1][0]", 7),
        ("mae < 'three'", 7),
        ("mae < (lambda: 1)()", 7),
        ("mae ** 99 < 3", 1),
        ("mae < True", 7),
        ("mae is 3", 1),
        ("mae <", 6),
        ("mae < 1; x", 8),
        ("mae", 1),
        ("-mae", 1),
        ("", 1),
        ("mae if mae else 1", 1),
        ("(" * 500 + "mae" + ")" * 500 + " < 1", None),
        ("a" * 2000 + " < 1", None),
        ("mae < 1\0", None),
    ],
)
def test_anything_else_is_refused_with_its_place(text: str, place: int | None) -> None:
    with pytest.raises(ModelError) as error:
        Gate(text)
    if place is not None:
        assert f"at character {place}:" in error.value.message
        assert error.value.hint


def test_a_metric_that_was_not_measured_names_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"needs skil, .* of the candidate\.\n.*skill"):
        Gate("skil > 0").judge(MINE, THEIRS)
    with pytest.raises(ModelError, match=r"needs champion\.rmse, .* of the champion"):
        Gate("mae < champion.rmse").judge(MINE, THEIRS)


def test_a_declaration_checks_its_gate() -> None:
    with pytest.raises(ModelError, match=r"Model 'm' \(m\.py:1\): promote_if has what no gate"):
        ModelDeclaration(
            name="m",
            table="t",
            target="y",
            promote_if="print(1) < 2",
            function=dict,
            location="m.py:1",
        )


@given(st.text(max_size=60))
def test_no_text_gets_through_but_as_a_condition(text: str) -> None:
    try:
        gate = Gate(text)
    except ModelError:
        return
    names = {"and", "or", "not", "champion", *re.findall(r"\w+", text)}
    metrics = dict.fromkeys(names, 1.0)
    assert gate.judge(metrics, metrics).passed in {True, False}


@given(
    st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
)
def test_comparisons_are_pythons(left: float, right: float, sign: str) -> None:
    result = Gate(f"a * 2 {sign} champion.a + 1").judge({"a": left}, {"a": right})
    assert result.passed is eval(f"{left!r} * 2 {sign} {right!r} + 1")
    assert not math.isnan(result.values["a"])

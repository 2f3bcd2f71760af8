import pytest

from shoal.errors import ModelError
from shoal.models import ModelDeclaration, collecting_models, metric_names, model


def declared(**changes) -> ModelDeclaration:
    fields = {"table": "gold.t", "target": "y", "by": ["a"]} | changes
    with collecting_models() as found:

        @model(**fields)
        def price(alpha: float = 1.0):
            from sklearn.linear_model import Ridge

            return Ridge(alpha=alpha)

    assert price(2.0).alpha == 2.0  # the function itself comes back
    return found[0]


def test_a_declaration_keeps_what_was_said_and_where() -> None:
    found = declared(by="store", params={"alpha": 3.0})
    assert found.name == "price"
    assert found.by == ("store",)
    assert found.location.startswith("test_declaration.py:")
    assert found.build().alpha == 3.0


def test_models_are_collected_only_inside_their_block() -> None:
    with collecting_models() as outer:
        with collecting_models() as inner:
            model(table="t", target="y", name="inner")(_named(dict))
        model(table="t", target="y", name="outer")(_named(dict))
    model(table="t", target="y", name="nowhere")(_named(dict))
    assert [m.name for m in inner] == ["inner"]
    assert [m.name for m in outer] == ["outer"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "mea"}, 'metric="mae"'),
        ({"holdout": 1.0}, "holdout"),
        ({"min_rows": 0}, "min_rows"),
        ({"baseline": "median"}, "seasonal_naive"),
        ({"by": ["y"]}, "both target and by"),
        ({"features": ["y"]}, "also a feature"),
        ({"features": []}, "features is empty"),
        ({"time": "a"}, "both time and by"),
        ({"name": "a b"}, "name"),
    ],
)
def test_a_wrong_declaration_says_what_is_wrong(changes, message) -> None:
    with pytest.raises(ModelError, match=message):
        declared(**changes)


def test_a_function_must_return_an_estimator() -> None:
    from sklearn.linear_model import Ridge

    for returned, message in [(lambda: Ridge, "the class Ridge"), (dict, "a dict without fit")]:
        with collecting_models() as found:
            model(table="t", target="y", name="m")(_named(returned))
        with pytest.raises(ModelError, match=message):
            found[0].build()


def _named(function):
    def m():
        return function()

    return m


def test_the_fingerprint_follows_fields_and_source() -> None:
    assert declared().fingerprint() == declared().fingerprint()
    assert declared().fingerprint() != declared(seed=1).fingerprint()
    assert declared().fingerprint() != declared(params={"alpha": 2.0}).fingerprint()


def test_metric_names_by_task() -> None:
    assert "mae" in metric_names("regression")
    assert "mae" not in metric_names("classification")

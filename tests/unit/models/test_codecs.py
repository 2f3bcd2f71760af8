import json
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, RegressorMixin, is_classifier
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    PolynomialFeatures,
    StandardScaler,
)
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from shoal.errors import ModelError
from shoal.models import decode, encode
from shoal.models.codecs import Encoder, template_modules

xgboost = pytest.importorskip("xgboost")

LINEAR = {
    "LinearRegression": LinearRegression,
    "Ridge": Ridge,
    "Lasso": lambda: Lasso(alpha=0.1),
    "ElasticNet": lambda: ElasticNet(alpha=0.1),
    "LogisticRegression": LogisticRegression,
    "scaled": lambda: make_pipeline(StandardScaler(), Ridge()),
    "polynomial": lambda: make_pipeline(
        SimpleImputer(), MinMaxScaler(), PolynomialFeatures(), LinearRegression()
    ),
    "columns": lambda: make_pipeline(
        ColumnTransformer(
            [("s", StandardScaler(), [0, 1]), ("m", MinMaxScaler(), slice(2, 3))],
            remainder="passthrough",
        ),
        Ridge(),
    ),
    "function": lambda: make_pipeline(FunctionTransformer(np.arcsinh), Ridge()),
    "target": lambda: TransformedTargetRegressor(Ridge(), func=np.arctan, inverse_func=np.tan),
}
OTHERS = {
    "KNeighbors": KNeighborsRegressor,
    "KNeighborsClassifier": KNeighborsClassifier,
    "DecisionTree": DecisionTreeRegressor,
    "DecisionTreeClassifier": DecisionTreeClassifier,
    "RandomForest": lambda: RandomForestRegressor(4, random_state=0),
    "RandomForestClassifier": lambda: RandomForestClassifier(4),
    "GradientBoosting": lambda: GradientBoostingRegressor(n_estimators=4),
    "GradientBoostingClassifier": lambda: GradientBoostingClassifier(n_estimators=4),
    "HistGradientBoosting": lambda: HistGradientBoostingRegressor(max_iter=4),
    "HistGradientBoostingClassifier": lambda: HistGradientBoostingClassifier(max_iter=4),
    "scaled forest": lambda: make_pipeline(StandardScaler(), RandomForestRegressor(3)),
    "SVR": SVR,
    "MLP": lambda: MLPRegressor(hidden_layer_sizes=(4,), max_iter=5),
    "Voting": lambda: VotingRegressor([("a", Ridge()), ("b", Lasso())]),
    "XGBRegressor": lambda: xgboost.XGBRegressor(n_estimators=4, n_jobs=1),
    "XGBClassifier": lambda: xgboost.XGBClassifier(n_estimators=4, n_jobs=1),
    "scaled XGB": lambda: make_pipeline(StandardScaler(), xgboost.XGBRegressor(n_estimators=3)),
}


def data(seed: int, rows: int = 80) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    features = random.normal(size=(rows, 4)) * 10.0 ** random.integers(-3, 4, 4)
    return features, features @ random.normal(size=4) + random.normal(size=rows)


def fitted(build, seed: int):
    features, target = data(seed)
    estimator = build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(features, (target > np.median(target)).astype(int)
                      if is_classifier(estimator) else target)  # fmt: skip
    return estimator, data(seed + 1, 200)[0]


def check_same(estimator, features) -> str:
    encoded = encode(estimator)
    again = decode(encoded.template, encoded.state)
    assert again.predict(features).tobytes() == estimator.predict(features).tobytes()
    if hasattr(estimator, "predict_proba"):
        both = again.predict_proba(features), estimator.predict_proba(features)
        assert both[0].tobytes() == both[1].tobytes()
    json.loads(encoded.template)
    return encoded.template


@pytest.mark.parametrize("name", LINEAR)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**31))
def test_a_decoded_estimator_predicts_the_same_bits(name, seed) -> None:
    check_same(*fitted(LINEAR[name], seed))


@pytest.mark.parametrize("name", OTHERS)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**31))
def test_trees_neighbours_and_boosters_predict_the_same_bits(name, seed) -> None:
    check_same(*fitted(OTHERS[name], seed))


@pytest.mark.parametrize("name", ["scaled", "columns", "XGBRegressor", "scaled forest"])
def test_estimators_of_one_structure_share_a_template(name) -> None:
    build = (LINEAR | OTHERS)[name]
    encoder = Encoder()
    members = [encoder.encode(fitted(build, seed)[0]) for seed in range(3)]
    assert len({m.template for m in members}) == 1
    assert len({m.state for m in members}) == 3
    for seed, member in enumerate(members):
        estimator, features = fitted(build, seed)
        if name != "scaled forest":  # unseeded: fitting twice gives two forests
            expected = estimator.predict(features)
            found = decode(member.template, member.state).predict(features)
            assert found.tobytes() == expected.tobytes()


def test_an_encoder_tells_structures_apart() -> None:
    encoder = Encoder()
    first, _ = fitted(lambda: Ridge(alpha=1.0), 0)
    second, _ = fitted(lambda: Ridge(alpha=2.0), 0)
    third, _ = fitted(lambda: Ridge(alpha=1), 0)
    encoded = [encoder.encode(e) for e in (first, second, third, first)]
    assert len({e.template for e in encoded}) == 3
    assert encoded[0] == encoded[3]
    assert type(decode(encoded[2].template, encoded[2].state).alpha) is int


class Halved(RegressorMixin, BaseEstimator):
    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def fit(self, features, target):
        self.level_ = float(np.mean(target) * self.share)
        return self

    def predict(self, features):
        return np.full(len(features), self.level_)


class Secretive(Halved):
    def fit(self, features, target):
        self.open_file_ = lambda: None
        return super().fit(features, target)


def test_own_estimators_need_the_callers_trust() -> None:
    estimator = Halved().fit(*data(0))
    encoded = encode(estimator)
    assert template_modules(encoded.template) == (__name__,)
    with pytest.raises(ModelError, match="not allowed"):
        decode(encoded.template, encoded.state)
    again = decode(encoded.template, encoded.state, modules=[__name__])
    assert again.predict(np.zeros((2, 4))).tolist() == [estimator.level_] * 2


def test_what_cannot_be_stored_names_the_attribute() -> None:
    with pytest.raises(ModelError, match=r"Secretive\.open_file_ holds the function"):
        encode(Secretive().fit(*data(0)))


@pytest.mark.parametrize(
    "path", ["os.system", "builtins.eval", "subprocess.Popen", "sklearn.utils._bunch.Bunch"]
)
def test_only_estimator_classes_are_built(path) -> None:
    template = json.dumps({"codec": 1, "sklearn": "1.9.1", "root": ["object", path, {}]})
    with pytest.raises(ModelError):
        decode(template, b"")


def test_a_ufunc_node_reaches_ufuncs_only() -> None:
    template = json.dumps({"codec": 1, "sklearn": _version(), "root": ["ufunc", "fromfile"]})
    with pytest.raises(ModelError, match="not allowed"):
        decode(template, b"")


def test_skops_bytes_with_foreign_types_are_refused() -> None:
    import skops.io

    data = skops.io.dumps(Halved().fit(np.zeros((3, 1)), np.ones(3)))
    state = len(data).to_bytes(8, "little") + data
    template = json.dumps(
        {"codec": 1, "sklearn": _version(), "root": ["skops", f"{__name__}.Halved"]}
    )
    with pytest.raises(ModelError, match="not allowed"):
        decode(template, state, modules=[__name__])


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000), junk=st.binary(max_size=8))
def test_damaged_state_is_a_model_error(cut, junk) -> None:
    encoded = encode(make_pipeline(StandardScaler(), Ridge()).fit(*data(3)))
    damaged = encoded.state[: cut % len(encoded.state)] + junk
    try:
        decode(encoded.template, damaged)
    except ModelError:
        return
    assert len(damaged) == len(encoded.state)


def test_another_sklearn_version_warns() -> None:
    encoded = encode(Ridge().fit(*data(0)))
    older = encoded.template.replace(f'"sklearn":"{_version()}"', '"sklearn":"0.1.0"')
    with pytest.warns(UserWarning, match=r"scikit-learn 0\.1\.0"):
        decode(older, encoded.state)


def _version() -> str:
    import sklearn

    return sklearn.__version__

"""Every regressor and classifier of scikit-learn, and the boosters: the same bits after storage."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import all_estimators

from shoal.errors import ModelError
from shoal.models import decode, encode
from shoal.models.codecs import Encoder

lightgbm = pytest.importorskip("lightgbm")
xgboost = pytest.importorskip("xgboost")

ONE, LOGIT = {"estimator": Ridge()}, {"estimator": LogisticRegression()}
PAIR = [("a", Ridge()), ("b", DecisionTreeRegressor(max_depth=3))]
PAIR_OF_CLASSIFIERS = [("a", LogisticRegression()), ("b", DecisionTreeClassifier(max_depth=3))]
# What a class needs to be built, or to be small.
ARGUMENTS = {
    "ClassifierChain": LOGIT,
    "FixedThresholdClassifier": LOGIT,
    "MultiOutputClassifier": LOGIT,
    "MultiOutputRegressor": ONE,
    "OneVsOneClassifier": LOGIT,
    "OneVsRestClassifier": LOGIT,
    "OutputCodeClassifier": LOGIT | {"random_state": 0},
    "RegressorChain": ONE,
    "SelfTrainingClassifier": LOGIT,
    "StackingClassifier": {"estimators": PAIR_OF_CLASSIFIERS, "cv": 2},
    "StackingRegressor": {"estimators": PAIR, "cv": 2},
    "TunedThresholdClassifierCV": LOGIT | {"cv": 2},
    "VotingClassifier": {"estimators": PAIR_OF_CLASSIFIERS},
    "VotingRegressor": {"estimators": PAIR},
    "RadiusNeighborsClassifier": {"radius": 100.0},
    "RadiusNeighborsRegressor": {"radius": 100.0},
    "CategoricalNB": {"min_categories": 8},
    "MLPClassifier": {"hidden_layer_sizes": (5,), "max_iter": 5},
    "MLPRegressor": {"hidden_layer_sizes": (5,), "max_iter": 5},
} | {
    name: {"n_estimators": 5}
    for name in (
        "AdaBoostClassifier", "AdaBoostRegressor", "BaggingClassifier", "BaggingRegressor",
        "ExtraTreesClassifier", "ExtraTreesRegressor", "GradientBoostingClassifier",
        "GradientBoostingRegressor", "RandomForestClassifier", "RandomForestRegressor",
    )
} | {name: {"max_iter": 5} for name in ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")}  # fmt: skip
SEVERAL_TARGETS = "it predicts several targets at once; a fleet predicts one"
# Not fitted by a fleet, and why.
LEFT_OUT = {
    "CCA": SEVERAL_TARGETS,
    "ClassifierChain": SEVERAL_TARGETS,
    "IsotonicRegression": "it takes one feature only",
    "MultiOutputClassifier": SEVERAL_TARGETS,
    "MultiOutputRegressor": SEVERAL_TARGETS,
    "MultiTaskElasticNet": SEVERAL_TARGETS,
    "MultiTaskElasticNetCV": SEVERAL_TARGETS,
    "MultiTaskLasso": SEVERAL_TARGETS,
    "MultiTaskLassoCV": SEVERAL_TARGETS,
    "PLSCanonical": SEVERAL_TARGETS,
    "RegressorChain": SEVERAL_TARGETS,
}
# Refused, and what is found in them.
REFUSED = {"TunedThresholdClassifierCV": "_curve_scorer holds a _CurveScorer"}
EVERY = {
    name: (kind, cls, ARGUMENTS.get(name, {}))
    for kind in ("regressor", "classifier")
    for name, cls in all_estimators(kind)
} | {
    "LGBMRegressor": ("regressor", lightgbm.LGBMRegressor, {"n_estimators": 4, "verbose": -1, "n_jobs": 1}),
    "LGBMClassifier": ("classifier", lightgbm.LGBMClassifier, {"n_estimators": 4, "verbose": -1, "n_jobs": 1}),
    "XGBRegressor": ("regressor", xgboost.XGBRegressor, {"n_estimators": 4, "n_jobs": 1}),
    "XGBClassifier": ("classifier", xgboost.XGBClassifier, {"n_estimators": 4, "n_jobs": 1}),
    "calibrated": ("classifier", CalibratedClassifierCV, {"estimator": SVC(), "cv": 2}),
    "isotonic": ("classifier", CalibratedClassifierCV, {"method": "isotonic", "cv": 2}),
    "target": ("regressor", TransformedTargetRegressor, {"regressor": Ridge(), "transformer": StandardScaler()}),
    "columns": ("regressor", lambda: make_pipeline(
        ColumnTransformer([("s", StandardScaler(), [0, 2])], remainder="passthrough"),
        RandomForestRegressor(3)), {}),
}  # fmt: skip


def fit(name, seed=0, classes=2):
    kind, cls, arguments = EVERY[name]
    random = np.random.default_rng(seed)
    x = random.integers(0, 8, size=(90, 4)).astype(float)  # counts: every one of them takes them
    y = x @ random.random(4) + random.random(90) + 1
    if kind == "classifier":
        y = np.searchsorted(np.quantile(y, np.arange(1, classes) / classes), y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(**arguments).fit(x, y), random.integers(0, 8, size=(200, 4)).astype(float)


def same(estimator, x, encoded) -> None:
    again = decode(encoded.template, encoded.state)
    for method in ("predict", "predict_proba", "decision_function"):
        if hasattr(estimator, method):
            found, expected = getattr(again, method)(x), getattr(estimator, method)(x)
            assert found.dtype == expected.dtype
            assert found.tobytes() == expected.tobytes(), method


@pytest.mark.filterwarnings("ignore:Class PassiveAggressive:FutureWarning")
@pytest.mark.parametrize("name", sorted(EVERY.keys() - LEFT_OUT.keys() - REFUSED.keys()))
def test_every_estimator_predicts_the_same_bits_after_storage(name) -> None:
    encoder = Encoder()
    for seed in (0, 1):
        estimator, x = fit(name, seed)
        same(estimator, x, encoder.encode(estimator))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stored_is_refused_when_it_is_trained(name) -> None:
    with pytest.raises(ModelError, match=REFUSED[name]):
        encode(fit(name)[0])


def test_what_is_left_out_exists() -> None:
    assert set(EVERY) >= LEFT_OUT.keys()
    assert set(EVERY) >= ARGUMENTS.keys()


@pytest.mark.parametrize(
    "name", ["RandomForestClassifier", "HistGradientBoostingClassifier", "LGBMClassifier", "SVC"]
)
def test_three_classes_too(name) -> None:
    estimator, x = fit(name, classes=3)
    same(estimator, x, encode(estimator))


@pytest.mark.parametrize(
    "name", ["DecisionTreeRegressor", "RandomForestRegressor", "HistGradientBoostingRegressor",
             "GradientBoostingClassifier"],
)  # fmt: skip
def test_trees_are_stored_as_arrays(name) -> None:
    assert '"skops"' not in encode(fit(name)[0]).template


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["DecisionTreeRegressor", "HistGradientBoostingRegressor"]),
    at=st.integers(0, 10**6),
    by=st.integers(1, 255),
)
def test_a_damaged_tree_is_refused_or_stays_within_its_memory(name, at, by) -> None:
    estimator, x = fit(name)
    encoded = encode(estimator)
    state = bytearray(encoded.state)
    state[at % len(state)] ^= by
    try:
        again = decode(encoded.template, bytes(state))
        again.predict(x)  # any number will do; a crash ends the test run
    except (ModelError, ValueError, TypeError, IndexError, AttributeError, OverflowError,
            MemoryError):  # fmt: skip
        pass


@pytest.mark.parametrize(
    "node",
    [
        ["reduced", "os.system", ["tuple", [["const", "true"]]], ["const", None]],
        ["reduced", "sklearn.linear_model._ridge.Ridge", ["tuple", []], ["const", None]],
        ["part", "sklearn._loss.loss.np", {}],
        ["part", "sklearn.gaussian_process.kernels.clone", {}],
        ["part", "sklearn.gaussian_process.kernels.BaseEstimator", {}],
        ["part", "subprocess.Popen", {}],
    ],
)
def test_internals_are_only_those_of_the_list(node) -> None:
    import sklearn

    template = json.dumps({"codec": 1, "sklearn": sklearn.__version__, "root": node})
    with pytest.raises(ModelError):
        decode(template, b"")


def test_a_line_in_a_forest_of_others_needs_no_skops() -> None:
    estimator = make_pipeline(StandardScaler(), LinearRegression()).fit(np.eye(4), np.arange(4.0))
    assert '"skops"' not in encode(estimator).template
    assert '"skops"' not in encode(HistGradientBoostingClassifier(max_iter=2).fit(
        np.arange(80.0).reshape(-1, 1), np.arange(80) > 40)).template  # fmt: skip

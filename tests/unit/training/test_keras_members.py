"""Keras models as members: their bits come back, and a configuration builds nothing but layers."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shoal.errors import ModelError
from shoal.models import decode, encode
from shoal.models.codecs import template_modules
from shoal.models.deep import seeded, wrapped

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
keras = pytest.importorskip("keras")

FITS = {"epochs": 2, "batch_size": 32}


def _regressor():
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((3,)), layers.Dense(4, "relu"), layers.Dropout(0.1),
        layers.BatchNormalization(), layers.Dense(1),
    ])  # fmt: skip
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return make_pipeline(StandardScaler(), keras.wrappers.SKLearnRegressor(model, fit_kwargs=FITS))


def _classifier(loss: str = "sparse_categorical_crossentropy"):
    given = keras.Input((3,))
    hidden = keras.layers.Dense(4, "tanh")(given)
    out = keras.layers.Dense(3, "softmax")(keras.layers.Concatenate()([hidden, given]))
    model = keras.Model(given, out)
    model.compile("adam", loss)
    return keras.wrappers.SKLearnClassifier(model, fit_kwargs=FITS)


BUILDS = {
    "regressor": _regressor,
    "codes": _classifier,
    "columns": lambda: _classifier("categorical_crossentropy"),
}


def fitted(name: str):
    random = np.random.default_rng(0)
    features = random.normal(size=(150, 3))
    target = features @ [1.0, 2.0, 3.0]
    if name != "regressor":
        target = np.digitize(target, [-1.5, 1.5])
    return wrapped(seeded(BUILDS[name], 1), 1).fit(features, target), features


@pytest.mark.parametrize("name", BUILDS)
def test_a_decoded_model_predicts_the_same_bits_and_the_seed_decides_them(name) -> None:
    estimator, features = fitted(name)
    encoded = encode(estimator)
    assert template_modules(encoded.template) == ()
    again = decode(encoded.template, encoded.state)
    assert again.predict(features).tobytes() == estimator.predict(features).tobytes()
    if name != "regressor":
        shares = again.predict_proba(features)
        assert shares.tobytes() == estimator.predict_proba(features).tobytes()
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    assert encode(again) == encoded
    assert encode(fitted(name)[0]) == encoded


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"class_name":"Dropout"', '"class_name":"Lambda"'),
        ('"class_name":"Dropout"', '"class_name":"TFSMLayer"'),
        ('"class_name":"Dropout"', '"class_name":"function"'),
        ('"module":"keras.initializers"', '"module":"os"'),
        ('"module":"keras.initializers"', '"module":"keras.saving"'),
    ],
)
def test_a_configuration_builds_layers_only(old, new) -> None:
    encoded = encode(fitted("regressor")[0])
    evil = encoded.template.replace(old, new)
    assert evil != encoded.template
    with pytest.raises(ModelError, match="not allowed"):
        decode(evil, encoded.state)


def test_a_layer_that_is_code_is_refused() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x * 2)])
    with pytest.raises(ModelError, match="Lambda, which is code"):
        encode(model)


def test_a_model_without_a_network_leaves_what_a_person_did_with_keras() -> None:
    keras.utils.clear_session()
    names = [keras.layers.Dense(1).name]
    seeded(Ridge, 1)
    names.append(keras.layers.Dense(1).name)
    assert names == ["dense", "dense_1"]

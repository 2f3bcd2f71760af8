"""Keras's scikit-learn wrappers as estimators of tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from shoal.models.deep.parts import replaced
from shoal.models.deep.training import NotFinite

__all__ = ["KerasClassifier", "KerasRegressor", "wrap_keras"]

Array = np.ndarray[Any, Any]

# Rows that are predicted at once.
_AT_ONCE = 4096


class _Keras(BaseEstimator):  # type: ignore[misc]
    """What both have.

    Args:
        wrapper: One of ``keras.wrappers``, with a compiled model or a function that makes one.
        seed: Seeds the weights, the order of rows and dropout.
    """

    model_: Any

    def __init__(self, wrapper: Any, seed: int = 0) -> None:
        self.wrapper = wrapper
        self.seed = seed

    def fit(self, X: Any, y: Any) -> Any:  # noqa: N803
        """Fit the model, as ``model.fit`` does with the wrapper's ``fit_kwargs``.

        Args:
            X: Shape (rows, features).
            y: Shape (rows,).

        Raises:
            NotFinite: The loss is NaN or infinite.
        """
        import keras

        keras.utils.set_random_seed(self.seed)
        self.start(np.asarray(X), np.asarray(y), self.count(np.asarray(y)))
        features, target = self.converted(np.asarray(X), np.asarray(y))
        given = {"verbose": 0, **(self.wrapper.fit_kwargs or {})}
        said = self.model_.fit(features, target, **given)
        losses = said.history.get("loss", [])
        if losses and not np.isfinite(losses[-1]):
            raise not_finite(losses[-1], len(losses))
        return self

    def start(self, features: Array, target: Array, classes: int) -> None:
        """Make the compiled model, unfitted.

        Args:
            features: Some rows, shape (n, features).
            target: Their targets.
            classes: Number of classes; 0 for regression.
        """
        self.n_classes_ = classes
        self.model_ = self.wrapper._get_model(*self.converted(features, target))
        if not self.model_.compiled:
            raise ValueError("the Keras model is not compiled: model.compile(optimizer, loss)")
        if not self.model_.built:
            self.model_.build((None, features.shape[1]))

    def count(self, target: Array) -> int:
        """Number of classes in the target; 0 for regression."""
        _ = target
        return 0

    def converted(self, features: Array, target: Array) -> tuple[Array, Array]:
        """Rows as the model takes them, in float32."""
        return features.astype(np.float32), target.reshape(-1, 1).astype(np.float32)

    def _outputs(self, features: Any) -> Array:
        import keras

        rows = np.ascontiguousarray(features, dtype=np.float32)
        parts = [
            keras.ops.convert_to_numpy(self.model_(rows[at : at + _AT_ONCE], training=False))
            for at in range(0, max(len(rows), 1), _AT_ONCE)
        ]
        return np.concatenate(parts).astype(np.float64)


class KerasRegressor(RegressorMixin, _Keras):  # type: ignore[misc]
    """A Keras model that predicts numbers, one for each row."""

    def predict(self, X: Any) -> Array:  # noqa: N803
        """Predicted numbers, float64, shape (rows,)."""
        return self._outputs(X).reshape(len(X), -1)[:, 0]


class KerasClassifier(ClassifierMixin, _Keras):  # type: ignore[misc]
    """A Keras model that predicts classes, by their codes."""

    n_classes_: int

    @property
    def classes_(self) -> Array:
        """The codes of the classes."""
        return np.arange(self.n_classes_)

    def count(self, target: Array) -> int:
        """Number of classes; codes count from 0."""
        return int(target.max()) + 1 if len(target) else 0

    def converted(self, features: Array, target: Array) -> tuple[Array, Array]:
        """Rows as the model takes them: codes where its loss wants codes, else one column each."""
        codes = target.astype(np.int64)
        model = getattr(self, "model_", None) or self.wrapper.model
        loss, width = getattr(model, "loss", ""), getattr(model, "output_shape", (None, 0))[-1]
        name = loss if isinstance(loss, str) else type(loss).__name__
        if "sparse" in name.lower() or width == 1:
            return features.astype(np.float32), codes.reshape(-1, 1)
        return features.astype(np.float32), np.eye(self.n_classes_, dtype=np.float32)[codes]

    def predict_proba(self, X: Any) -> Array:  # noqa: N803
        """Probabilities of the classes: the model's outputs, shape (rows, classes)."""
        found = self._outputs(X)
        return np.hstack([1 - found, found]) if found.shape[1] == 1 else found

    def predict(self, X: Any) -> Array:  # noqa: N803
        """The most probable class of each row."""
        found: Array = self.classes_[np.argmax(self.predict_proba(X), axis=1)]
        return found


def not_finite(loss: float, epoch: int) -> NotFinite:
    """The error of a loss that is no number."""
    return NotFinite(
        f"the loss is {loss} in epoch {epoch}: lower the optimizer's learning rate, scale the "
        "features, or clip the gradients"
    )


def wrap_keras(estimator: Any, seed: int) -> Any:
    """The estimator with each of Keras's wrappers in it as an estimator of tables.

    Args:
        estimator: A wrapper, or an estimator whose steps hold one; changed in place.
        seed: The model's seed.
    """
    from keras.wrappers import SKLearnClassifier, SKLearnRegressor

    def wrap(part: Any) -> Any:
        if isinstance(part, SKLearnClassifier):
            return KerasClassifier(wrapper=part, seed=seed)
        return (
            KerasRegressor(wrapper=part, seed=seed) if isinstance(part, SKLearnRegressor) else None
        )

    return replaced(estimator, wrap)

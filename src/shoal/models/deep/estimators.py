"""Nets as estimators of tables: they take the kernel's float64 rows and one target column."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from shoal.models.deep.batches import ArrayRows
from shoal.models.deep.nets import is_net
from shoal.models.deep.parts import replaced
from shoal.models.deep.seeds import few_threads

__all__ = ["NetClassifier", "NetRegressor", "wrap_nets"]

Array = np.ndarray[Any, Any]

# Rows that are predicted at once.
_AT_ONCE = 4096


class _Net(BaseEstimator):  # type: ignore[misc]
    """What both have.

    Args:
        net: A skorch net.
        seed: Seeds its weights, its batches and dropout.
    """

    def __init__(self, net: Any, seed: int = 0) -> None:
        self.net = net
        self.seed = seed

    def __sklearn_is_fitted__(self) -> bool:
        return bool(getattr(self.net, "initialized_", False))

    def fit(self, X: Any, y: Any) -> Any:  # noqa: N803
        """Fit the net.

        Args:
            X: Shape (rows, features).
            y: Shape (rows,).

        Raises:
            NotFinite: The loss is NaN or infinite.
        """
        from shoal.models.deep.training import fit_net, fit_split

        rows = ArrayRows(np.asarray(X), np.asarray(y))
        fit = fit_net if self.net.train_split is None else fit_split
        with few_threads():
            fit(self.net, rows, seed=self.seed, classes=self._classes(rows.target))
        return self

    def _classes(self, target: Array) -> int:
        _ = target
        return 0

    def _outputs(self, features: Any, *, probable: bool) -> Array:
        """The module's outputs, after the criterion's own non-linearity where it is asked for."""
        import torch

        from shoal.models.deep.training import dtype_of

        net, kind, found = self.net, dtype_of(self.net), []
        finish = net._get_predict_nonlinearity() if probable else None
        rows = np.ascontiguousarray(features)
        with few_threads(), torch.no_grad():
            net.module_.eval()
            for start in range(0, max(len(rows), 1), _AT_ONCE):
                part = torch.as_tensor(rows[start : start + _AT_ONCE], dtype=kind)
                said = net.infer(part.to(net.device))
                said = said[0] if isinstance(said, tuple) else said
                found.append((finish(said) if finish else said).cpu().numpy())
        return np.concatenate(found)


class NetRegressor(RegressorMixin, _Net):  # type: ignore[misc]
    """A skorch net that predicts numbers, one for each row."""

    def predict(self, X: Any) -> Array:  # noqa: N803
        """Predicted numbers.

        Args:
            X: Shape (rows, features).

        Returns:
            Float64, shape (rows,).
        """
        return self._outputs(X, probable=False).reshape(len(X), -1)[:, 0].astype(np.float64)


class NetClassifier(ClassifierMixin, _Net):  # type: ignore[misc]
    """A skorch net that predicts classes, by their codes."""

    @property
    def classes_(self) -> Array:
        """The codes of the classes that it was fitted on."""
        found: Array = self.net.classes_
        return found

    def _classes(self, target: Array) -> int:
        return int(target.max()) + 1 if len(target) else 0

    def predict_proba(self, X: Any) -> Array:  # noqa: N803
        """Probabilities of the classes.

        Args:
            X: Shape (rows, features).

        Returns:
            Float64, shape (rows, classes).
        """
        found = self._outputs(X, probable=True).astype(np.float64)
        if found.ndim == 1 or found.shape[1] == 1:
            found = found.reshape(-1, 1)
            return np.hstack([1 - found, found])
        return found

    def predict(self, X: Any) -> Array:  # noqa: N803
        """The most probable class of each row; see `predict_proba`."""
        found: Array = self.classes_[np.argmax(self.predict_proba(X), axis=1)]
        return found


def wrap_nets(estimator: Any, seed: int) -> Any:
    """The estimator with each net in it as an estimator of tables.

    Args:
        estimator: A net, or an estimator whose parameters or steps hold some; changed in place.
        seed: The model's seed.
    """
    import skorch

    kinds = skorch.NeuralNetClassifier | skorch.NeuralNetBinaryClassifier

    def wrap(part: Any) -> Any:
        if not is_net(part):
            return None
        return (NetClassifier if isinstance(part, kinds) else NetRegressor)(net=part, seed=seed)

    return replaced(estimator, wrap)

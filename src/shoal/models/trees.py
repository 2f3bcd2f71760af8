"""Checks of stored trees: compiled code follows their indices without looking."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["check_boosted", "check_tree"]


def check_tree(arguments: Any, state: Any) -> None:
    """A ``sklearn.tree._tree.Tree`` before it is rebuilt.

    Args:
        arguments: Its constructor's: features, classes of each output, outputs.
        state: What ``__setstate__`` will get.

    Raises:
        ValueError: An index leads out of the tree or of the features.
    """
    features, nodes, values = arguments[0], state["nodes"], state["values"]
    count = len(nodes)
    inner = nodes["left_child"] != -1
    _check(count == state["node_count"] and len(values) == count and count > 0)
    _check_children(nodes["left_child"], nodes["right_child"], inner)
    _check(bool(((nodes["feature"] >= 0) & (nodes["feature"] < features))[inner].all()))


def check_boosted(estimator: Any) -> None:
    """A histogram gradient boosting estimator that was rebuilt.

    Raises:
        ValueError: An index leads out of a tree, of the features or of the categories.
    """
    for tree in (tree for trees in vars(estimator).get("_predictors", ()) for tree in trees):
        nodes = tree.nodes
        inner = nodes["is_leaf"] == 0
        _check_children(nodes["left"].astype(np.int64), nodes["right"].astype(np.int64), inner)
        feature = nodes["feature_idx"][inner]
        _check(bool(((feature >= 0) & (feature < estimator.n_features_in_)).all()))
        category = inner & (nodes["is_categorical"] != 0)
        sets = min(len(tree.raw_left_cat_bitsets), len(tree.binned_left_cat_bitsets))
        _check(bool((nodes["bitset_idx"][category] < sets).all()))


def _check_children(left: Any, right: Any, inner: Any) -> None:
    own = np.arange(len(left))
    _check(len(left) > 0)
    for child in (left, right):
        # Children lie behind their parent, so every walk ends.
        _check(bool(((child > own) & (child < len(left)))[inner].all()))


def _check(holds: bool) -> None:
    if not holds:
        raise ValueError("a tree's indices lead out of it")

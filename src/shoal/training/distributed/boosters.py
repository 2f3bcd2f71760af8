"""XGBoost in several processes: histograms of all workers' rows added up by its collectives."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.training.distributed.learners import Context, Transformed

__all__ = ["learn_booster"]

# Rows that are handed over at once.
_ROWS = 65_536


def learn_booster(estimator: Any, rows: Transformed, context: Context) -> None:
    """Fit a booster as one worker; see `shoal.training.distributed.learners.learn`.

    Each worker has a range of the rows, quantised in blocks as they are read. What was reached is
    saved after every tenth of the rounds.

    Args:
        estimator: An `xgboost.XGBModel`.
        rows: All rows.
        context: The worker.
    """
    import xgboost

    edges = len(rows) * np.arange(context.workers + 1) // context.workers
    start, end = int(edges[context.rank]), int(edges[context.rank + 1])

    class Blocks(xgboost.DataIter):
        """This worker's rows, a block at a time."""

        def __init__(self) -> None:
            self.at = start
            super().__init__()

        def next(self, input_data: Any) -> bool:
            if self.at >= end:
                return False
            part = np.arange(self.at, min(self.at + _ROWS, end))
            features, target = rows.take(part)
            input_data(data=features, label=target)
            self.at += len(part)
            return True

        def reset(self) -> None:
            self.at = start

    params = estimator.get_xgb_params() | {"nthread": 1, "tree_method": "hist"}
    if context.classes > 2:
        params |= {"objective": _multi(params), "num_class": context.classes}
    elif context.classes:
        params["objective"] = params.get("objective") or "binary:logistic"
    data = xgboost.QuantileDMatrix(
        Blocks(), max_bin=params.get("max_bin") or 256, missing=float("nan"), nthread=1
    )
    rounds = estimator.get_num_boosting_rounds()
    step = max(rounds // 10, 1)
    booster, done = None, 0
    saved = context.restore()
    if saved is not None:
        booster, done = xgboost.Booster(model_file=bytearray(saved[0])), saved[1]
    while done < rounds:
        count = min(step, rounds - done)
        booster = xgboost.train(params, data, count, xgb_model=booster, verbose_eval=False)
        done += count
        context.save(bytes(booster.save_raw("ubj")) if context.rank == 0 else b"", done)
    assert booster is not None
    estimator.load_model(bytearray(booster.save_raw("ubj")))
    if context.classes:
        estimator.n_classes_ = context.classes


def _multi(params: dict[str, Any]) -> str:
    said = str(params.get("objective") or "")
    return said if said.startswith("multi:") else "multi:softprob"

"""Hyper-parameter search: trials are measured inside the training rows, and kept in one table.

A *trial* is one choice of parameters, fitted and measured as the kernel does it but on the
training rows alone: the last share of them validates. Trials are rows of ``shoal.trials_<model>``,
so a search that was killed goes on from them, and one that is finished is not made again.
"""

from __future__ import annotations

from shoal.training.search.found import Found
from shoal.training.search.optuna_study import copy_study, optuna_study
from shoal.training.search.run import search

__all__ = ["Found", "copy_study", "optuna_study", "search"]

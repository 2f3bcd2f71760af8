"""Fitting: Arrow rows sorted by segment go in, Arrow rows of fitted members come out.

`train` reads a table at one version, fits every segment in a pool of processes over one
memory-mapped Arrow file, and commits all members in one transaction. The kernel, `fit_segments`,
is a plain function of Arrow data, so any engine that sorts rows by segment can run it.
"""

from __future__ import annotations

from shoal.training.again import train_again
from shoal.training.base import Base, read_base
from shoal.training.composite import Composite, Part, compose
from shoal.training.kernel import FitJob, fit_segments
from shoal.training.nursery import Nursery
from shoal.training.retrain import retrain
from shoal.training.run import new_nursery, train

__all__ = [
    "Base",
    "Composite",
    "FitJob",
    "Nursery",
    "Part",
    "compose",
    "fit_segments",
    "new_nursery",
    "read_base",
    "retrain",
    "train",
    "train_again",
]

"""One model fitted by several processes: each computes with its rows of every batch.

The rows lie in one Arrow file that all workers map into memory; none holds a copy. All go through
the same global batches and add up their gradients (or the sums of their histograms), so the result
is that of one process but for rounding. What was reached is saved after every epoch, and a group
that lost a worker goes on from there.
"""

from __future__ import annotations

from shoal.training.distributed.fit import fit_together
from shoal.training.distributed.learners import Context, Shard
from shoal.training.distributed.onspark import spark_launch

__all__ = ["Context", "Shard", "fit_together", "spark_launch"]

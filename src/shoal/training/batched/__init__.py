"""Batched learners: where the maths allows, a chunk's segments are fitted by one calculation.

A linear model of a segment is a function of its rows' sums and cross products. Those are found
in one pass, the few unknowns of all segments are solved for together, and the fitted states are
written into one buffer, in the template that scikit-learn's own fit of one segment gives.
Forecasters smooth all series side by side, step by step.
"""

from shoal.training.batched.fit import fit_batched, is_batched, least_together
from shoal.training.batched.plan import plan_of

__all__ = ["fit_batched", "is_batched", "least_together", "plan_of"]

"""A fleet: one delay model per carrier and destination."""

from sklearn.linear_model import HuberRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import shoal


@shoal.model(
    table="gold.delay_features",
    target="arr_delay",
    by=["carrier", "dest"],
    time="date",
    metric="mae",
    key=["flight_id"],
)
def delay() -> Pipeline:
    # Delays have a long tail: a loss that grows linearly listens to the usual day, not the worst.
    return make_pipeline(StandardScaler(), HuberRegressor(epsilon=1.1, alpha=1.0, max_iter=200))

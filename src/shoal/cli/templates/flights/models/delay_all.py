"""One model over all flights, to compare the fleet with."""

from xgboost import XGBRegressor

import shoal


@shoal.model(
    table="gold.delay_features",
    target="arr_delay",
    time="date",
    metric="mae",
    key=["flight_id"],
)
def delay_all() -> XGBRegressor:
    return XGBRegressor(
        objective="reg:absoluteerror", n_estimators=60, max_depth=6, max_bin=64, learning_rate=0.2
    )

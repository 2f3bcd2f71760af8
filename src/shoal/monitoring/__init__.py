"""Health of models: *an alarm is a test that survives all the others*.

A `profile` is a small sketch of each column in each segment: whoever has the sketches of two
windows can compare them (`drift`), whatever became of the rows. `losses` tells how wrong
predictions were once the truth is known. Thousands of segments are tested at once, so `judge`
holds the share of false alarms down, and an alarm that was raised stays until it is over.
"""

from shoal.monitoring.alarms import Judged, judge
from shoal.monitoring.alerts import Alert, Delivery, deliver
from shoal.monitoring.drift import drift
from shoal.monitoring.losses import losses
from shoal.monitoring.sketch import PROFILE, profile

__all__ = [
    "PROFILE",
    "Alert",
    "Delivery",
    "Judged",
    "deliver",
    "drift",
    "judge",
    "losses",
    "profile",
]

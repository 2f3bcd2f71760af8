"""Watching models: new rows and late truth become findings, findings alarms, alarms retraining."""

from shoal.workspace.watch.monitor import monitor
from shoal.workspace.watch.report import MonitorReport
from shoal.workspace.watch.retrain import drifted, retrain_drifted

__all__ = ["MonitorReport", "drifted", "monitor", "retrain_drifted"]

"""Watching models and tables: new rows and late truth become findings, alarms, retraining."""

from shoal.workspace.watch.monitor import monitor
from shoal.workspace.watch.report import MonitorReport
from shoal.workspace.watch.retrain import drifted, retrain_drifted, settle
from shoal.workspace.watch.store import table_key
from shoal.workspace.watch.tables import comparable, monitor_table

__all__ = [
    "MonitorReport",
    "comparable",
    "drifted",
    "monitor",
    "monitor_table",
    "retrain_drifted",
    "settle",
    "table_key",
]

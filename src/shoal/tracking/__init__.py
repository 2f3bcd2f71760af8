"""What was trained, from what, and which version is in use.

One training makes one MLflow run, one dataset input that names a table *and its version*, and one
registered model version; an alias points at the version in use. MLflow is used unmodified, so any
MLflow client, user interface or server reads what is written here. This is the only room that
imports MLflow, and only once a `Tracker` is used.
"""

from shoal.tracking.code import THREADS, cause_of_change, changed_environment, environment
from shoal.tracking.context import RunContext, run_context, user_name
from shoal.tracking.reading import Reading, Recorded
from shoal.tracking.runs import DatasetInput, TrackedRun
from shoal.tracking.tracker import Tracker
from shoal.tracking.version import ModelVersion, Pointers, Reference
from shoal.tracking.whole import Whole, load_whole

__all__ = [
    "THREADS",
    "DatasetInput",
    "ModelVersion",
    "Pointers",
    "Reading",
    "Recorded",
    "Reference",
    "RunContext",
    "TrackedRun",
    "Tracker",
    "Whole",
    "cause_of_change",
    "changed_environment",
    "environment",
    "load_whole",
    "run_context",
    "user_name",
]

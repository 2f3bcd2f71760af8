"""One object that composes the rooms: plan, run, train, score, serve.

The rooms below meet through durable things only (a table at a version, a registered model); here
is where one hands over to the next.
"""

from shoal.workspace.audit import Audit, Move
from shoal.workspace.evaluations import Evaluation
from shoal.workspace.events import Quality
from shoal.workspace.maintain import Maintenance
from shoal.workspace.promotion import Promotion
from shoal.workspace.report import (
    ModelPlan,
    ModelReport,
    Plan,
    RunReport,
    ScoreReport,
    SearchReport,
    TableReport,
)
from shoal.workspace.scripts import ScriptRun, start_run
from shoal.workspace.workspace import Workspace

__all__ = [
    "Audit",
    "Evaluation",
    "Maintenance",
    "ModelPlan",
    "ModelReport",
    "Move",
    "Plan",
    "Promotion",
    "Quality",
    "RunReport",
    "ScoreReport",
    "ScriptRun",
    "SearchReport",
    "TableReport",
    "Workspace",
    "start_run",
]

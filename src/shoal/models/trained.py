"""The hand-over from training to tracking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.models.declaration import ModelDeclaration

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class TrainedFleet:
    """One finished training: what was fitted, on what, how good it is and where it lies.

    Attributes:
        declaration: The model's declaration.
        fleet_version: 1 for a model's first training, then counting up.
        table: The table it learned from.
        table_version: The one Delta version that was read.
        table_id: The table's Delta id.
        table_path: Where the table lies.
        members_table: The table that holds the members.
        members_version: The version whose commit added them.
        artifact: The folder of the fleet artifact.
        params: Declared settings and the function's parameters, as text.
        metrics: Aggregated metrics, counts and times.
        seed: The declared seed.
        input_example: Up to five rows of ``by`` and feature columns.
        seconds: Wall-clock time of the whole training.
        failures: Cause of each fallback or failure, and how many segments it met.
        reason: Which segments were fitted, which were carried over, and why.
        current_version: The oldest version that a member was compared with; None when it is
            ``table_version``. Older after some segments were fitted alone.
        tags: More to say of the run and the version, such as the search that it follows.
        searched: The declaration with the parameters that a search found; None without one.
        run_id: The run that the training's own code has logged into; None makes a new one.
        inputs: MLflow's types of the input columns, when another version's are known to hold.
    """

    declaration: ModelDeclaration
    fleet_version: int
    table: str
    table_version: int
    table_id: str
    table_path: str
    members_table: str
    members_version: int
    artifact: Path
    params: dict[str, str]
    metrics: dict[str, float]
    seed: int
    input_example: pa.Table
    seconds: float
    failures: dict[str, int]
    reason: str = ""
    current_version: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    searched: ModelDeclaration | None = None
    inputs: Mapping[str, str] | None = None
    run_id: str | None = None

"""Where a fleet artifact lies between fitting and MLflow."""

from __future__ import annotations

import uuid
from pathlib import Path

from shoal.lake import Table

__all__ = ["artifact_folder"]


def artifact_folder(table: Table, number: int) -> Path:
    """A new folder on this machine for the artifact of one version of a fleet.

    Another training of the model may be at the same version just now: the name is its own. Beside
    the fleet's table on a disk, so that it stays when MLflow cannot be reached.
    """
    return table.here / "_fleets" / f"{number}-{uuid.uuid4().hex[:8]}"

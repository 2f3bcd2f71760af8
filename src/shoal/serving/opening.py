"""How versions are opened for serving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.errors import TrackingError
from shoal.serving.served import ServedModel

if TYPE_CHECKING:
    from shoal.tracking import Recorded

__all__ = ["Opening"]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Opens what a registry holds.

    Args:
        trust_pickle: Unpickle what was pickled, which runs whatever code it holds.
        memory: About how many bytes the decoded members of one version may take.
    """

    trust_pickle: bool = False
    memory: int = 256 * 2**20

    def open(self, name: str, number: int, recorded: Recorded) -> ServedModel:
        """Opens one version.

        Raises:
            ModelError: The artifact is damaged, or pickled and not trusted.
            TrackingError: It is of a kind that cannot be served.
        """
        from shoal.models.fleet import Fleet

        folder = recorded.fleet
        if folder is None:
            raise TrackingError(f"'{name}' version {number} was not trained by Shoal.")
        fleet = Fleet.open(folder, memory=self.memory, trust_pickle=self.trust_pickle)
        return ServedModel(name=name, version=number, fleet=fleet, inputs=recorded.inputs)

"""The models of a server that knows nothing but a bundle: no registry, no project, no MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.deploy.bundle import Bundle

if TYPE_CHECKING:
    from shoal.serving import ServedModels

__all__ = ["served_bundle"]


def served_bundle(bundle: Bundle, *, trust_pickle: bool = False) -> ServedModels:
    """Opens the fleet of a bundle for serving.

    Args:
        bundle: The bundle, whose checksums were compared.
        trust_pickle: Unpickle members that were pickled, which runs whatever code they hold.

    Raises:
        ModelError: A member needs a class that is not allowed, or a library that is not there.
    """
    from shoal.models import Fleet
    from shoal.serving import ServedModel, ServedModels

    fleet = Fleet.open(bundle.artifact, trust_pickle=trust_pickle)
    model = ServedModel(
        name=bundle.model, version=bundle.version, fleet=fleet, inputs=bundle.inputs
    )
    return ServedModels([model])

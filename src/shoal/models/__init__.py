"""What a model is: a declaration, a fitted state without pickle, and a row of a fleet.

A *fleet* is one model definition fitted per segment. A model is a row: the segment's key, the
template that all members of one structure share, and the bytes that only this member has. This
room declares models, turns fitted estimators into rows and back, and predicts with the rows.
"""

from __future__ import annotations

from shoal.models.artifact import FeatureField, FleetHeader, write_fleet
from shoal.models.codecs import Encoded, decode, encode
from shoal.models.declaration import ModelDeclaration
from shoal.models.declare import collecting_models, model
from shoal.models.fleet import Fleet
from shoal.models.metrics import metric_names
from shoal.models.search import Search
from shoal.models.trained import TrainedFleet

__all__ = [
    "Encoded",
    "FeatureField",
    "Fleet",
    "FleetHeader",
    "ModelDeclaration",
    "Search",
    "TrainedFleet",
    "collecting_models",
    "decode",
    "encode",
    "metric_names",
    "model",
    "write_fleet",
]

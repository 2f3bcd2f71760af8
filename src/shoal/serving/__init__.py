"""REST scoring of registered models: a served model is a pointer to a version.

The server answers MLflow's scoring protocol and the Open Inference Protocol, so what can call
``mlflow models serve`` or KServe can call this. A request holds values only: never a path, a query
or a model that was not chosen when the server was started.
"""

from shoal.serving.app import create_app
from shoal.serving.client import Client
from shoal.serving.log import InferenceLog
from shoal.serving.lookup import Lookup
from shoal.serving.models import ServedModels
from shoal.serving.opening import Opening
from shoal.serving.served import ServedModel
from shoal.serving.server import serve
from shoal.serving.tokens import SCOPES, Tokens, new_token
from shoal.serving.traffic import TAG, Traffic
from shoal.serving.workers import Worker, worker_processes

__all__ = [
    "SCOPES",
    "TAG",
    "Client",
    "InferenceLog",
    "Lookup",
    "Opening",
    "ServedModel",
    "ServedModels",
    "Tokens",
    "Traffic",
    "Worker",
    "create_app",
    "new_token",
    "serve",
    "worker_processes",
]

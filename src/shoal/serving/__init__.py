"""REST scoring of registered models: a served model is a pointer to a version.

The server answers MLflow's scoring protocol, so what can call ``mlflow models serve`` can call
this. A request holds values only: never a path, a query or a model that was not chosen when the
server was started.
"""

from shoal.serving.app import create_app
from shoal.serving.models import ServedModel, ServedModels
from shoal.serving.server import serve

__all__ = ["ServedModel", "ServedModels", "create_app", "serve"]

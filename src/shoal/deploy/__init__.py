"""Registered models on their way to other machines: what was rehearsed is what is deployed.

A *bundle* is a folder with all that serving one version needs, named by its content. Everything
else points at it by its digest: a rehearsal vouches for it, an image holds it, and a deployment on
Kubernetes or Azure Machine Learning is a pointer to it.
"""

from shoal.deploy.bundle import Bundle
from shoal.deploy.databricks import export_databricks
from shoal.deploy.image import build_image
from shoal.deploy.make import make_bundle
from shoal.deploy.rehearse import rehearse
from shoal.deploy.served import served_bundle

__all__ = [
    "Bundle",
    "build_image",
    "export_databricks",
    "make_bundle",
    "rehearse",
    "served_bundle",
]

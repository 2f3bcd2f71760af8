"""Kubernetes: a target becomes objects, and objects become a rollout that ends well or is undone.

The old version answers until the new one does; what does not become ready is rolled back.
"""

from shoal.deploy.kubernetes.kustomize import dump, write_kustomize
from shoal.deploy.kubernetes.manifests import manifests
from shoal.deploy.kubernetes.others import inference_service, job, sail
from shoal.deploy.kubernetes.target import Target, target_of

__all__ = [
    "Target",
    "dump",
    "inference_service",
    "job",
    "manifests",
    "sail",
    "target_of",
    "write_kustomize",
]

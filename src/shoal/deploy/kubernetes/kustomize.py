"""Manifests as a kustomize base with overlays, for a repository that a controller follows."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from shoal.deploy.kubernetes.manifests import Object, manifests
from shoal.deploy.kubernetes.target import Target
from shoal.errors import DeployError

__all__ = ["dump", "write_kustomize"]

_API = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
# What each overlay changes: replicas at least and at most.
_OVERLAYS = {"dev": (1, 2), "prod": None}


def write_kustomize(target: Target, folder: Path, *, more: Sequence[Object] = ()) -> list[Path]:
    """Writes ``base/`` and an overlay for development and for production.

    The base has no namespace and the image without a tag; overlays give both. The base is written
    anew; an overlay that is there is a person's, and only its image is set.

    Args:
        target: What to deploy.
        folder: Where.
        more: More objects for the base.

    Returns:
        The written files.

    Raises:
        DeployError: A file cannot be written, or an overlay is no kustomization.
    """
    try:
        return _write(target, folder, more)
    except OSError as error:
        raise DeployError(f"{folder} cannot be written: {error}") from error


def _write(target: Target, folder: Path, more: Sequence[Object]) -> list[Path]:
    base = folder / "base"
    if base.exists():
        shutil.rmtree(base)
    base.mkdir(parents=True)
    written = []
    image, tag = _image(target.image)
    for found in [*manifests(target), *more]:
        meta = {k: v for k, v in found["metadata"].items() if k != "namespace"}
        path = base / f"{found['kind'].lower()}-{meta['name']}.yaml"
        path.write_text(dump({**found, "metadata": meta}).replace(target.image, image), "utf-8")
        written.append(path)
    names = sorted(path.name for path in written)
    written.append(_save(base / "kustomization.yaml", {**_API, "resources": names}))
    for name, replicas in _OVERLAYS.items():
        path = folder / "overlays" / name / "kustomization.yaml"
        content = _overlay(target, name, replicas)
        if path.exists():
            kept = yaml.safe_load(path.read_text("utf-8"))
            if not isinstance(kept, dict):
                raise DeployError(f"{path} is no kustomization.", hint="Mend or remove it.")
            others = [i for i in kept.get("images", []) if i.get("name") != image]
            content = {**kept, "images": [*others, {"name": image, **tag}]}
        else:
            content["images"] = [{"name": image, **tag}]
        written.append(_save(path, content))
    return written


def _overlay(target: Target, name: str, replicas: tuple[int, int] | None) -> dict[str, Any]:
    suffix = "" if name == "prod" else f"-{name}"
    content: dict[str, Any] = {
        **_API,
        "namespace": f"{target.namespace}{suffix}",
        "resources": ["../../base"],
    }
    if replicas is not None and not target.weight:
        patch = [
            {"op": "replace", "path": f"/spec/{field}", "value": value}
            for field, value in zip(("minReplicas", "maxReplicas"), replicas, strict=True)
        ]
        which = {"kind": "HorizontalPodAutoscaler", "name": target.full_name}
        content["patches"] = [{"target": which, "patch": yaml.safe_dump(patch)}]
    return content


def _image(image: str) -> tuple[str, dict[str, str]]:
    """The name of an image, and its digest or tag as kustomize writes it."""
    name, at, digest = image.partition("@")
    if at:
        return name, {"digest": digest}
    name, colon, tag = image.rpartition(":")
    return (name, {"newTag": tag}) if colon and "/" not in tag else (image, {"newTag": "latest"})


def _save(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(content), encoding="utf-8")
    return path


def dump(content: object) -> str:
    """YAML in the order in which it was written, without anchors."""
    return yaml.dump(content, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        _ = data
        return True

"""The software bill of materials of a bundle, in CycloneDX 1.6 (JSON).

Source: https://cyclonedx.org/docs/1.6/json/. It has no date, and a serial number made of its
content: the same bundle has the same bytes.
"""

from __future__ import annotations

import importlib.metadata
import json
import uuid
from collections.abc import Mapping
from typing import Any

from shoal.deploy.closure import Closure

__all__ = ["bill_of_materials"]

_NAMESPACE = uuid.UUID("6f0f6a63-3f63-5b0b-9d52-6f8b1f0a7a11")


def bill_of_materials(
    closure: Closure, model: Mapping[str, Any], artifact: Mapping[str, str], wheel_hash: str
) -> dict[str, Any]:
    """The components of a bundle and what depends on what.

    Args:
        closure: The distributions.
        model: ``model`` and ``version`` of the bundle.
        artifact: SHA-256 of each file of the model.
        wheel_hash: SHA-256 of Shoal's own wheel.
    """
    shoal = importlib.metadata.version("shoal")
    name, version = str(model["model"]), str(model["version"])
    ident = f"model:{name}@{version}"
    components = [
        {
            "type": "machine-learning-model",
            "bom-ref": ident,
            "name": name,
            "version": version,
            "hashes": [{"alg": "SHA-256", "content": value} for value in artifact.values()],
        },
        {
            "type": "library",
            "bom-ref": "shoal",
            "name": "shoal",
            "version": f"{shoal}+serving",
            "licenses": [{"license": {"id": "Apache-2.0"}}],
            "hashes": [{"alg": "SHA-256", "content": wheel_hash}],
        },
        *(_component(distribution, number) for distribution, number in closure.versions.items()),
    ]
    refs = {n: _purl(n, v) for n, v in closure.versions.items()}
    depends = [
        {"ref": ident, "dependsOn": ["shoal"]},
        {"ref": "shoal", "dependsOn": sorted(refs[root] for root in closure.roots)},
        *(
            {"ref": refs[n], "dependsOn": sorted(refs[other] for other in others)}
            for n, others in closure.edges.items()
        ),
    ]
    content = {"components": components, "dependencies": depends}
    serial = uuid.uuid5(_NAMESPACE, json.dumps(content, sort_keys=True))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "name": f"{name}-server", "version": version}
        },
        **content,
    }


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}"


def _component(name: str, version: str) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(name, version),
        "name": name,
        "version": version,
        "purl": _purl(name, version),
    }
    meta: Any = importlib.metadata.metadata(name)
    if expression := meta.get("License-Expression"):
        component["licenses"] = [{"expression": expression}]
    else:
        stated = [c.split(" :: ")[-1] for c in meta.get_all("Classifier", []) if "License ::" in c]
        short = (meta.get("License") or "").strip()
        if not stated and short and "\n" not in short and len(short) < 100:
            stated = [short]
        if stated:
            component["licenses"] = [{"license": {"name": text}} for text in stated]
    if summary := meta.get("Summary"):
        component["description"] = summary
    return component

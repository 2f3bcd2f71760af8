"""What a deployment on Kubernetes is to be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from shoal.deploy.bundle import Bundle
from shoal.errors import DeployError

__all__ = ["LONGEST", "Target", "checked_name", "target_of"]

# A Service's name is a DNS label (RFC 1035), and a canary's name is longer by "-canary".
LONGEST = 63 - len("-canary")
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_IMAGE = re.compile(r"[a-z0-9][-a-z0-9._:/]*(@sha256:[0-9a-f]{64})?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One deployment of one model.

    Args:
        name: Name of its objects.
        namespace: Where.
        image: The bundle's image.
        model: The model's name.
        version: Its version.
        digest: The bundle's digest.
        port: The server's port.
        command: Arguments of the server, over those of the image; None keeps those.
        replicas: How many at least.
        max_replicas: How many at most.
        requests: ``cpu`` and ``memory`` that each is given.
        limits: What each may use.
        start_seconds: How long a start may take.
        route: What leads to it from outside: an Ingress, a Gateway's HTTPRoute, or nothing.
        host: Host name of the route.
        gateway: Name of the Gateway.
        ingress_class: Class of the Ingress.
        tls_secret: Secret with the Ingress' certificate.
        identity: Client id of the Entra workload identity.
        settings: Environment of the server, in a ConfigMap.
        secrets: Secrets whose keys become environment variables.
        tokens: Secret whose key ``tokens.json`` has the hashes of API tokens.
        monitor: Also a ServiceMonitor for the Prometheus operator.
        weight: Share of the requests that a canary takes, in percent; 0 for the stable one.
    """

    name: str
    namespace: str
    image: str
    model: str
    version: int
    digest: str
    port: int = 8080
    command: Sequence[str] | None = None
    replicas: int = 2
    max_replicas: int = 10
    requests: Mapping[str, str] = field(default_factory=lambda: {"cpu": "250m", "memory": "256Mi"})
    limits: Mapping[str, str] = field(default_factory=lambda: {"memory": "512Mi"})
    start_seconds: int = 60
    route: Literal["none", "ingress", "gateway"] = "none"
    host: str | None = None
    gateway: str = "shoal"
    ingress_class: str | None = None
    tls_secret: str | None = None
    identity: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    tokens: str | None = None
    monitor: bool = False
    weight: int = 0

    def __post_init__(self) -> None:
        checked_name(self.name)
        checked_name(self.namespace, "namespace", 63)
        if not _IMAGE.fullmatch(self.image):
            raise DeployError(
                f"'{self.image}' is no image name.",
                hint="Write it like registry.example/delay@sha256:0123...",
            )
        if not 1 <= self.replicas <= self.max_replicas:
            raise DeployError(
                f"{self.replicas} replicas at least and {self.max_replicas} at most do not fit.",
                hint="Give --replicas and --max-replicas.",
            )
        if not 0 <= self.weight <= 100:
            raise DeployError(f"A canary takes 0 to 100 percent; found {self.weight}.")
        if self.weight and self.route == "none":
            raise DeployError(
                "A canary by weight needs a route that shares the requests.",
                hint="Give --route gateway (or ingress) and --host.",
            )
        if self.route == "ingress" and not self.host:
            raise DeployError("An Ingress needs a host name.", hint="Give --host.")

    @property
    def full_name(self) -> str:
        """Name of the Deployment and Service; a canary stands beside the stable one."""
        return f"{self.name}-canary" if self.weight else self.name

    @property
    def selector(self) -> dict[str, str]:
        """Labels that tell its pods."""
        return {
            "app.kubernetes.io/name": self.name,
            "app.kubernetes.io/component": "canary" if self.weight else "stable",
        }

    @property
    def labels(self) -> dict[str, str]:
        """Labels of all its objects."""
        return {
            **self.selector,
            "app.kubernetes.io/part-of": "shoal",
            "app.kubernetes.io/managed-by": "shoal",
            "app.kubernetes.io/version": str(self.version),
        }


def target_of(
    bundle: Bundle, *, name: str | None = None, namespace: str, image: str, **more: Any
) -> Target:
    """The target of a bundle, with the resources that its rehearsal proposes.

    Args:
        bundle: The bundle.
        name: Name of the objects; the model's by default.
        namespace: Where.
        image: The bundle's image.
        more: As for `Target`; None means not given.

    Raises:
        DeployError: A name or value does not fit.
    """
    proposal = (bundle.rehearsal or {}).get("proposal") or {}
    given = {key: value for key, value in more.items() if value is not None}
    proposed = {k: proposal[k] for k in ("replicas", "requests", "limits") if k in proposal}
    if "replicas" in proposed:
        proposed["max_replicas"] = max(10, 3 * proposed["replicas"])
    values = {**proposed, **given}
    if given.get("tokens"):
        from shoal.deploy.dockerfile import COMMAND

        kept = [part for part in COMMAND[1:] if part != "--open"]
        values["command"] = [*kept, "--tokens", "/etc/shoal/tokens.json"]
    wanted = name or re.sub(r"[^a-z0-9]+", "-", bundle.model.lower()).strip("-")
    return Target(
        name=wanted,
        namespace=namespace,
        image=image,
        model=bundle.model,
        version=bundle.version,
        digest=bundle.digest,
        port=int(bundle.server["port"]),
        **values,
    )


def checked_name(name: str, what: str = "name", longest: int = LONGEST) -> str:
    """A name that Kubernetes takes.

    Raises:
        DeployError: It is too long, or has other characters.
    """
    if len(name) > longest:
        raise DeployError(
            f"The {what} '{name[:80]}' has {len(name)} characters; Kubernetes takes {longest}.",
            hint=f"Give a shorter one: --name {name[:20].rstrip('-')}",
        )
    if not _NAME.fullmatch(name):
        raise DeployError(
            f"'{name}' is no {what} for Kubernetes: lower-case letters, digits and '-', "
            "beginning with a letter.",
            hint="Give another one: --name my-model",
        )
    return name

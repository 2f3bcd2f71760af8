"""The Dockerfile of a bundle."""

from __future__ import annotations

import json

from shoal.errors import DeployError

__all__ = ["COMMAND", "DEFAULT_BASE", "IGNORED", "dockerfile"]

DEFAULT_BASE = "docker.io/library/python:{python}-slim-bookworm"
COMMAND = ("shoal", "serve", "--bundle", "/srv/bundle", "--host", "0.0.0.0", "--open")  # noqa: S104
IGNORED = "rehearsal.json\nDockerfile\n.dockerignore\n"

_TEXT = """\
# syntax=docker/dockerfile:1
# Made by `shoal bundle`. Only the packages come from elsewhere; pip checks their hashes.
ARG BASE={base}

FROM ${{BASE}} AS build
WORKDIR /build
COPY requirements.txt ./
COPY wheels/ wheels/
RUN python3 -m venv /opt/shoal \\
 && /opt/shoal/bin/python -m pip install --no-cache-dir --no-deps {hashes}-r requirements.txt \\
 && {{ /opt/shoal/bin/python -m compileall -q -j 0 /opt/shoal/lib || true; }} \\
 && /opt/shoal/bin/python -m pip uninstall --yes --quiet pip

FROM ${{BASE}}
LABEL org.opencontainers.image.title="{model}" \\
      org.opencontainers.image.version="{version}"
COPY --from=build /opt/shoal /opt/shoal
COPY . /srv/bundle
# Nothing is written at run time: the root file system may be read-only.
ENV PATH=/opt/shoal/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \\
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
USER 65532:65532
WORKDIR /srv
EXPOSE {port}
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \\
  CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/ready')"]
# The network policy, a gateway or tokens (--tokens FILE) say who may ask.
ENTRYPOINT {command}
"""


def dockerfile(
    *,
    base: str | None,
    python: str,
    model: str,
    version: int,
    port: int,
    hashed: bool,
    pickled: bool,
) -> str:
    """The text of a Dockerfile: two stages, no root, nothing written at run time.

    Args:
        base: The base image, best with its digest; None for Python's own slim image.
        python: Python's version, such as ``3.11``.
        model: The model's name.
        version: Its version.
        port: The server's port.
        hashed: Whether all requirements have hashes.
        pickled: Whether the server is to open pickled members.

    Raises:
        DeployError: ``base`` is no image name.
    """
    base = base or DEFAULT_BASE.format(python=python)
    if not base.strip() or any(c.isspace() or c in "\"'$\\" for c in base):
        raise DeployError(
            f"'{base}' is no image name.",
            hint="Write it like python:3.11-slim-bookworm@sha256:0123...",
        )
    return _TEXT.format(
        base=base,
        model=model.replace('"', ""),
        version=version,
        port=port,
        hashes="--require-hashes " if hashed else "",
        command=json.dumps([*COMMAND, *(["--trust-pickle"] if pickled else [])]),
    )

"""The OCI image of a bundle, by a builder that is there."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from shoal.deploy.bundle import Bundle
from shoal.errors import DeployError

__all__ = ["Image", "build_image", "builder"]

_BUILDERS = ("buildah", "docker", "podman")


@dataclass(frozen=True, kw_only=True)
class Image:
    """A built image.

    Attributes:
        tag: Its name.
        ident: Its id, which is made of its content.
        builder: What built it.
    """

    tag: str
    ident: str
    builder: str


def builder() -> str | None:
    """The first builder that is installed and answers; None without one."""
    for name in _BUILDERS:
        if not shutil.which(name):
            continue
        asked = [name, "version"] if name == "docker" else [name, "info"]
        if not _run(asked, check=False).returncode:
            return name
    return None


def build_image(bundle: Bundle, tag: str, *, base: str | None = None) -> Image:
    """Builds the image of a bundle.

    Layers bear no dates of this build, so that the same bundle on the same base gives the same
    layers where the builder can do that (buildah).

    Args:
        bundle: The bundle.
        tag: Name of the image.
        base: Another base image than the Dockerfile's.

    Raises:
        DeployError: There is no builder, or it fails; the message has the end of its output.
    """
    found = builder()
    if found is None:
        raise DeployError(
            "There is no builder of images: neither buildah, docker nor podman answers.",
            hint=f"Install one, or build {bundle.folder} elsewhere: docker build {bundle.folder}",
        )
    bundle.check()
    with tempfile.TemporaryDirectory(prefix="shoal-image-") as folder:
        written = Path(folder) / "id"
        if found == "buildah":
            # Without user namespaces of its own, so that it also works inside a container.
            command = [found, "bud", "--isolation", "chroot", "--format", "docker"]
            command += ["--timestamp", "0", "--quiet"]
        else:
            command = [found, "build", "--quiet"]
        command += ["--iidfile", str(written), "--tag", tag]
        if base:
            command += ["--build-arg", f"BASE={base}"]
        done = _run([*command, str(bundle.folder)], check=False)
        if done.returncode:
            raise DeployError(
                f"{found} cannot build {bundle.folder}: "
                + (done.stderr or done.stdout).strip()[-2_000:],
                hint="A registry that cannot be reached? Give another base image: --base",
            )
        return Image(tag=tag, ident=written.read_text().strip(), builder=found)


def _run(command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=check)  # noqa: S603

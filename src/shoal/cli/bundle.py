"""``shoal bundle``, and ``shoal serve --bundle``."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import as_json, opened, project_options

__all__ = ["bundle", "serve_bundle"]


@command("shoal bundle delay@champion --out bundles")
@click.argument("model")
@project_options
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bundles"),
    show_default=True,
    help="Folder that the bundle's folder goes into.",
)
@click.option("--base", help="Base image of the Dockerfile: NAME@sha256:... [default: python:slim]")
@click.option("--image", "tag", help="Also build the OCI image of this name (buildah, docker).")
@click.option("--port", default=8080, show_default=True, help="The server's port.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes.")
@click.option("--trust-pickle", is_flag=True, help="Open pickled members: runs the code in them.")
@as_json
def bundle(
    model: str,
    *,
    folder: Path | None,
    profile: str | None,
    out: Path,
    base: str | None,
    tag: str | None,
    port: int,
    workers: int,
    trust_pickle: bool,
    as_json: bool,
) -> None:
    """Make one folder with all that serving MODEL needs.

    It holds the fleet, the pinned packages of its server and no others, sample requests with the
    registry's answers, an SBOM, checksums and a Dockerfile. The same version gives the same bytes.
    """
    from shoal.workspace.bundles import bundle_model

    begun = time.perf_counter()
    with opened(folder, profile) as space:
        made = bundle_model(
            space,
            model,
            out,
            base=base,
            server={"port": port, "workers": workers},
            trust_pickle=trust_pickle,
        )
    found: dict[str, Any] = {
        "bundle": str(made.folder),
        "digest": made.digest,
        "model": made.model,
        "version": made.version,
        "bytes": made.size(),
        "packages": made.content["packages"],
        "hashes": made.content["hashes"],
        "seconds": time.perf_counter() - begun,
    }
    if tag is not None:
        from shoal.deploy import build_image

        begun = time.perf_counter()
        image = build_image(made, tag)
        found |= {"image": image.tag, "image_id": image.ident, "builder": image.builder}
        found["image_seconds"] = time.perf_counter() - begun
    if as_json:
        show.print_json(found)
        return
    click.echo(
        f"{made.model} version {made.version}: {made.content['members']:,} members, "
        f"{made.size() / 1e6:.1f} MB, {found['packages']} packages, {found['seconds']:.1f} s"
    )
    if found["hashes"] == "none":
        click.echo("No uv.lock has these versions: the requirements are pinned without hashes.")
    if tag is not None:
        click.echo(
            f"Built {tag} ({found['image_id'][:19]}) with {found['builder']} in "
            f"{found['image_seconds']:.1f} s"
        )
    click.echo(f"Wrote {made.folder}\nNext: shoal rehearse {made.folder}")


def serve_bundle(
    folder: Path,
    host: str,
    tokens: Path | None,
    *,
    certificate: str | None,
    key: str | None,
    pickled: bool,
) -> None:
    """Serves a bundle until it is told to stop; the command line goes before its settings.

    Args:
        folder: The bundle.
        host: Address to listen on.
        tokens: File of the tokens that are asked for.
        certificate: TLS certificate chain.
        key: Its key.
        pickled: Unpickle members that were pickled.
    """
    from shoal.deploy import Bundle, served_bundle
    from shoal.serving import Tokens, create_app, worker_processes
    from shoal.serving import serve as run_server

    opened_bundle = Bundle.open(folder)
    given = _given()
    settings = {**opened_bundle.server, **given}
    port = int(settings["port"])
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(worker_processes(int(settings["workers"]), host, port))
        served = served_bundle(opened_bundle, trust_pickle=pickled)
        app = create_app(
            served,
            default=opened_bundle.model,
            max_rows=int(settings["max_rows"]),
            tokens=Tokens(tokens) if tokens else None,
        )
        stack.enter_context(served.following(also=[app.state.publish]))

        def ready(url: str) -> None:
            worker.ready()
            if worker.lead:
                members = opened_bundle.content["members"]
                label = f"{opened_bundle.model} version {opened_bundle.version}"
                click.echo(f"{label}: {members:,} members, bundle {opened_bundle.digest[:12]}")
                click.echo(f"Serving at {url}")

        run_server(
            app,
            host=host,
            port=port,
            listener=worker.listener,
            ready=ready,
            certificate=certificate,
            private_key=key,
        )


def _given() -> dict[str, Any]:
    """Which of the bundle's settings the command line gives."""
    from click.core import ParameterSource

    context = click.get_current_context()
    return {
        name: context.params[name]
        for name in ("port", "workers", "max_rows")
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE
    }

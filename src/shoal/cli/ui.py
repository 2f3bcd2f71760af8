"""``shoal ui``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shoal.cli.app import command
from shoal.cli.options import opened, project_options
from shoal.errors import ProjectError

if TYPE_CHECKING:
    from shoal.ui import Access

__all__ = ["ui"]


@command("shoal ui --port 8080")
@project_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, help="Port; 0 takes a free one.")
@click.option("--token", "ask", is_flag=True, help="Ask for a token; new ones are printed.")
@click.option(
    "--tokens",
    type=click.Path(path_type=Path),
    help="Ask for a token of this file: shoal token (read views, admin edits).",
)
@click.option(
    "--server",
    "servers",
    multiple=True,
    default=["http://127.0.0.1:5001"],
    show_default=True,
    metavar="URL",
    help="Scoring servers whose figures are shown.",
)
@click.option("--viewer", is_flag=True, help="Without tokens: look only, change nothing.")
@click.option("--certificate", type=click.Path(exists=True), help="TLS certificate chain, PEM.")
@click.option("--private-key", type=click.Path(exists=True), help="Its key, PEM.")
def ui(
    *,
    folder: Path | None,
    profile: str | None,
    host: str,
    port: int,
    ask: bool,
    tokens: Path | None,
    servers: tuple[str, ...],
    viewer: bool,
    certificate: str | None,
    private_key: str | None,
) -> None:
    """See the lake, the fleets and their health in a browser, and act.

    On this machine's own address it asks for nothing. On any other it asks for a token: one for
    viewers and one for editors are printed, unless --tokens names a file of them.
    """
    from shoal.serving import Tokens, serve
    from shoal.ui import LOOPBACK, Access, Desk, create_ui, fresh_token

    with opened(folder, profile) as space:
        _check(space.project.name)
        local = host in LOOPBACK
        cookie = "shoal-" + hashlib.sha256(str(space.project.root).encode()).hexdigest()[:8]
        hosts = LOOPBACK if local else frozenset[str]()
        printed = {fresh_token(): "editor", fresh_token(): "viewer"}
        if tokens is not None:
            access = Access(role=None, file=Tokens(tokens), hosts=hosts, cookie=cookie)
        elif ask or not local:
            access = Access(role=None, tokens=printed, hosts=hosts, cookie=cookie)  # type: ignore[arg-type]
        else:
            access = Access(role="viewer" if viewer else "editor", hosts=hosts, cookie=cookie)
        desk = Desk(space)
        app = create_ui(desk, access, servers=servers)

        desk.warm()

        def ready(url: str) -> None:
            click.echo(f"The workspace of {space.project.name}: {url}  (Ctrl-C stops)")
            _say(access, url)

        serve(
            app,
            host=host,
            port=port,
            ready=ready,
            grace=1,
            certificate=certificate,
            private_key=private_key,
        )


def _say(access: Access, url: str) -> None:
    for token, role in access.tokens.items():
        click.echo(f"For an {role}: " if role == "editor" else f"For a {role}:  ", nl=False)
        click.echo(f"{url}/login?token={token}")


def _check(name: str) -> None:
    """Refuses to start without what the pages need."""
    import importlib.util

    for module in ("starlette", "uvicorn", "jinja2", "python_multipart"):
        if importlib.util.find_spec(module) is None:
            raise ProjectError(
                f"The workspace of {name} needs {module}, which is not installed.",
                hint='pip install "shoal[ui]"',
            )

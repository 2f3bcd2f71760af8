"""``shoal serve``, ``shoal token`` and ``shoal canary``."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from shoal.cli.app import command
from shoal.cli.options import opened, project_options
from shoal.errors import ProjectError

if TYPE_CHECKING:
    from shoal.serving import Lookup
    from shoal.workspace import Workspace

__all__ = ["canary", "serve", "token"]

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@command("shoal serve delay --port 5001 --log")
@click.argument("models", nargs=-1)
@project_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5001, show_default=True, help="Port; 0 takes a free one.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes.")
@click.option("--default", default=None, help="Model of /invocations [default: the first].")
@click.option("--follow", default=0.5, show_default=True, help="Seconds between looks.")
@click.option("--log", is_flag=True, help="Log predictions into shoal.inferences_<model>.")
@click.option(
    "--log-full",
    type=click.Choice(["refuse", "drop"]),
    default="refuse",
    show_default=True,
    help="When the log has no room: answer 503, or lose rows and count them.",
)
@click.option(
    "--lookup",
    "lookups",
    multiple=True,
    metavar="MODEL=TABLE:KEY,...[@TIME]",
    help="A request brings the keys only; the table's newest rows bring the rest.",
)
@click.option(
    "--tokens", type=click.Path(path_type=Path), help="Ask for a token of this file: shoal token."
)
@click.option("--open", "unguarded", is_flag=True, help="Allow other hosts without tokens.")
@click.option("--certificate", type=click.Path(exists=True), help="TLS certificate chain, PEM.")
@click.option("--private-key", type=click.Path(exists=True), help="Its key, PEM.")
@click.option("--max-rows", default=100_000, show_default=True, help="Most rows in one request.")
@click.option("--max-body", default=16, show_default=True, help="Largest body, in MB.")
@click.option("--queue", default=256, show_default=True, help="Requests that may wait.")
@click.option(
    "--memory",
    default=256,
    show_default=True,
    type=click.IntRange(1),
    help="MB for the decoded members of a version.",
)
@click.option("--onnx", is_flag=True, help="Predict with ONNX Runtime where it proves equal.")
@click.option("--trust-pickle", is_flag=True, help="Open pickled models: runs the code in them.")
@click.option(
    "--bundle",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Serve this folder of shoal bundle; no project or registry is asked.",
)
def serve(
    models: tuple[str, ...],
    *,
    folder: Path | None,
    profile: str | None,
    host: str,
    port: int,
    workers: int,
    default: str | None,
    follow: float,
    log: bool,
    log_full: Literal["refuse", "drop"],
    lookups: tuple[str, ...],
    tokens: Path | None,
    unguarded: bool,
    certificate: str | None,
    private_key: str | None,
    max_rows: int,
    max_body: int,
    queue: int,
    memory: int,
    onnx: bool,
    trust_pickle: bool,
    bundle: Path | None,
) -> None:
    """Answer REST requests with MODELS (default: all champions).

    The server speaks MLflow's scoring protocol (/invocations, /models/NAME[@ALIAS]/invocations) and
    the Open Inference Protocol (/v2). A promotion or rollback is taken up without a restart. /docs
    shows what is served.
    """
    from shoal.serving import InferenceLog, Tokens, create_app, worker_processes
    from shoal.serving import serve as run_server
    from shoal.workspace.observe import telemetry_on

    if host not in _LOOPBACK and tokens is None and not unguarded:
        raise ProjectError(
            f"Anyone who reaches {host} could ask this server, for there are no tokens.",
            hint="Make one (shoal token new NAME) and give --tokens, or give --open.",
        )
    if bundle is not None:
        from shoal.cli.bundle import serve_bundle

        if models or log or lookups:
            raise ProjectError(
                "A bundle has one model and no lake: MODELS, --log and --lookup need a project.",
                hint="Leave them out, or serve from a project without --bundle.",
            )
        serve_bundle(
            bundle, host, tokens, certificate=certificate, key=private_key, pickled=trust_pickle
        )
        return
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(worker_processes(workers, host, port))
        space = stack.enter_context(opened(folder, profile))
        served = space.served(models, trust_pickle=trust_pickle, memory=memory * 2**20, onnx=onnx)
        found = dict(_lookup(space, text, [model.name for model in served]) for text in lookups)
        logging = InferenceLog(space.lake, full=log_full) if log else None
        app = create_app(
            served,
            default=default or next(iter(served)).name,
            max_rows=max_rows,
            max_body=max_body * 2**20,
            queue=queue,
            tokens=Tokens(tokens) if tokens else None,
            log=logging,
            lookups=found,
        )
        if telemetry_on(os.environ):
            from shoal.workspace.observe.telemetry import trace_app

            for provider in trace_app(app):
                stack.callback(provider.shutdown)
        if logging is not None:
            stack.enter_context(logging)
        say = click.echo if worker.lead else _silent
        refreshes = [*(lookup.refresh for lookup in found.values()), app.state.publish]
        stack.enter_context(
            served.following(follow, changed=say, also=refreshes, agree=worker.agree)
        )

        def ready(url: str) -> None:
            worker.ready()
            if not worker.lead:
                return
            for model in served:
                segments = model.fleet.segments
                click.echo(f"{model.name} version {model.version}: {segments:,} members")
            click.echo(f"Serving at {url}  (POST {url}/invocations; {url}/docs; Ctrl-C stops)")

        run_server(
            app,
            host=host,
            port=port,
            listener=worker.listener,
            ready=ready,
            certificate=certificate,
            private_key=private_key,
        )


def _silent(_text: str) -> None:
    """What the lead says already."""


def _lookup(space: Workspace, text: str, models: list[str]) -> tuple[str, Lookup]:
    from shoal.errors import nearest
    from shoal.serving import Lookup

    model, equals, rest = text.partition("=")
    table, colon, columns = rest.partition(":")
    keys, _, time = columns.partition("@")
    if not (equals and colon and table and keys):
        raise ProjectError(
            f"'{text}' is no lookup.",
            hint="Write it like delay=gold.delay_features:carrier,dest@day",
        )
    if model not in models:
        close = nearest(model, models)
        raise ProjectError(
            f"The lookup's model '{model}' is not served.",
            hint=f"Did you mean '{close}'?" if close else f"Served: {', '.join(models)}",
        )
    return model, Lookup(space.lake.table(table), keys.split(","), time=time or None)


@command("shoal token ann --scopes score --file tokens.json")
@click.argument("name")
@click.option(
    "--file",
    "path",
    default="tokens.json",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where its hash goes.",
)
@click.option("--scopes", default="score,read", show_default=True, help="Of read, score, admin.")
def token(name: str, path: Path, scopes: str) -> None:
    """Make an API token for NAME and print it, once.

    The file holds its hash only. Running servers take it up at once; a new token of the same name
    replaces the old one.
    """
    from shoal.serving import new_token

    click.echo(new_token(path, name, [scope.strip() for scope in scopes.split(",")]))


@command("shoal canary delay --to challenger --percent 10")
@click.argument("model")
@project_options
@click.option("--to", "alias", default="challenger", show_default=True, help="The other version.")
@click.option("--percent", default=0.0, help="Share of the requests that it answers.")
@click.option("--segment", "segments", multiple=True, help="A segment that it answers: UA,IAH.")
@click.option("--shadow", is_flag=True, help="It answers nothing; its predictions are logged.")
@click.option("--off", is_flag=True, help="All requests to the champion again.")
def canary(
    model: str,
    *,
    folder: Path | None,
    profile: str | None,
    alias: str,
    percent: float,
    segments: tuple[str, ...],
    shadow: bool,
    off: bool,
) -> None:
    """Share MODEL's traffic with another version of it; servers follow within a second."""
    from shoal.models.segments import segment_key
    from shoal.serving import TAG, Traffic

    with opened(folder, profile) as space:
        if off:
            space.tracker.set_tag(model, TAG, None)
            click.echo(f"{model}: all requests to the champion")
            return
        version = space.tracker.resolve(f"{model}@{alias}")
        keys = frozenset(segment_key(text.split(",")) for text in segments)
        rule = Traffic(alias=alias, percent=percent, segments=keys, shadow=shadow)
        space.tracker.set_tag(model, TAG, rule.to_tag())
    share = f"{len(keys)} segments" if keys else f"{percent:g}% of the requests"
    verb = "shadows" if shadow else "answers"
    click.echo(f"{model}: version {version.version} ({alias}) {verb} {share}")

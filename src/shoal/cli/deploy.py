"""``shoal deploy``: a group with a command for each target and each thing to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shoal.cli import show
from shoal.cli.app import cli, command
from shoal.cli.options import as_json
from shoal.errors import DeployError, ProjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shoal.deploy import Bundle
    from shoal.deploy.kubernetes import Target
    from shoal.deploy.kubernetes.cluster import Cluster

__all__ = ["deploy"]

_EXAMPLE = "shoal deploy k8s bundles/delay-3-1f0c9a2b7e55 --image registry.example/delay:3"


@cli.group(epilog=f"Example:  {_EXAMPLE}", context_settings={"max_content_width": 100})
def deploy() -> None:
    """Bring a rehearsed bundle to Kubernetes, and look after it there."""


def _cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--kubeconfig", type=click.Path(exists=True), help="Another kubeconfig."),
        click.option("--context", help="Context of the kubeconfig [default: the current one]."),
        click.option("--namespace", default="default", show_default=True, help="Namespace."),
    ):
        function = option(function)
    return function


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ProjectError(f"'{text}' is no setting.", hint="Write it like LEVEL=info.")
        found[key] = value
    return found


@command(_EXAMPLE + " --namespace ml", group=deploy)
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_cluster_options
@click.option("--image", required=True, help="The bundle's image, best by its digest.")
@click.option("--name", help="Name of its objects [default: the model's].")
@click.option("--replicas", type=click.IntRange(1), help="At least [default: the rehearsal's].")
@click.option("--max-replicas", type=click.IntRange(1), help="At most.")
@click.option(
    "--route",
    type=click.Choice(["none", "ingress", "gateway"]),
    default="none",
    show_default=True,
    help="What leads to it from outside.",
)
@click.option("--host", help="Host name of the route.")
@click.option("--gateway", default="shoal", show_default=True, help="Name of the Gateway.")
@click.option("--ingress-class", help="Class of the Ingress.")
@click.option("--tls-secret", help="Secret with the Ingress' certificate.")
@click.option("--identity", help="Client id of the workload identity.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Environment.")
@click.option("--secret", "secrets", multiple=True, help="Secret that becomes environment.")
@click.option("--tokens", help="Secret with tokens.json: requests need a token.")
@click.option("--monitor", is_flag=True, help="Also a ServiceMonitor for Prometheus.")
@click.option("--canary", default=0, type=click.IntRange(0, 100), help="Percent of the requests.")
@click.option("--kserve", is_flag=True, help="As KServe's InferenceService.")
@click.option(
    "--write",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a kustomize base and overlays here instead of applying.",
)
@click.option("--timeout", type=float, help="Seconds until it must be ready.")
@click.option("--force", is_flag=True, help="Deploy without a passed rehearsal.")
@click.option("--force-conflicts", is_flag=True, help="Take fields over from other clients.")
@as_json
def k8s(
    bundle: Path,
    *,
    namespace: str,
    context: str | None,
    kubeconfig: str | None,
    image: str,
    settings: tuple[str, ...],
    canary: int,
    kserve: bool,
    write: Path | None,
    timeout: float | None,
    force: bool,
    force_conflicts: bool,
    as_json: bool,
    **more: Any,
) -> None:
    """Apply BUNDLE to a cluster and watch it become ready; what does not is rolled back.

    The old version answers until the new one does. With --write nothing is applied: the folder is
    for a repository that Flux or Argo CD follows.
    """
    from shoal.deploy import Bundle
    from shoal.deploy.kubernetes import inference_service, target_of, write_kustomize

    opened = Bundle.open(bundle)
    _rehearsed(opened, force=force)
    target = target_of(
        opened,
        namespace=namespace,
        image=image,
        settings=_pairs(settings),
        weight=canary,
        **more,
    )
    if write is not None:
        files = write_kustomize(target, write)
        if as_json:
            show.print_json([str(path) for path in files])
        else:
            click.echo(
                f"Wrote {len(files)} files to {write}\nkubectl apply -k {write}/overlays/prod"
            )
        return
    cluster = _cluster(context, kubeconfig)
    if kserve:
        from shoal.deploy.kubernetes.deploy import apply

        apply(cluster, [inference_service(target)], force_conflicts=force_conflicts)
        click.echo(f"Applied InferenceService/{target.name} in {namespace}")
        return
    _apply(cluster, target, timeout=timeout, force=force_conflicts, as_json=as_json)


def _cluster(context: str | None, kubeconfig: str | None) -> Cluster:
    from shoal.deploy.kubernetes.cluster import Cluster

    return Cluster(context, kubeconfig)


def _apply(
    cluster: Cluster, target: Target, *, timeout: float | None, force: bool, as_json: bool
) -> None:
    from shoal.deploy.kubernetes.deploy import deploy as run

    told = _quiet if as_json else click.echo
    found = run(cluster, target, timeout=timeout, force_conflicts=force, told=told)
    _show(found, as_json=as_json)


def _quiet(_text: str) -> None:
    """Machines want the end only."""


def _rehearsed(bundle: Bundle, *, force: bool) -> None:
    """A bundle is deployed when its rehearsal passed, or someone takes it upon themselves."""
    report = bundle.rehearsal
    if force or (report is not None and report.get("passed")):
        return
    state = "was not rehearsed" if report is None else "did not pass its rehearsal"
    raise DeployError(
        f"The bundle {bundle.folder.name} {state}.",
        hint=f"shoal rehearse {bundle.folder}   (or deploy with --force)",
    )


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show.print_json(found)
        return
    for part in found["deployments"]:
        click.echo(
            f"{part['name']}: {part['model']}, revision {part['revision']}, "
            f"{part['available']} of {part['replicas']} replicas available ({part['image']})"
        )
        for pod in part["pods"]:
            click.echo(f"  {pod['name']}  {pod['phase']}, {pod['restarts']} restarts")


@command("shoal deploy azureml bundles/delay-3-1f0c9a2b7e55 --endpoint shop-delay", group=deploy)
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--subscription", required=True, envvar="AZURE_SUBSCRIPTION_ID", help="Its id.")
@click.option("--resource-group", "group", required=True, help="The workspace's resource group.")
@click.option("--workspace", required=True, help="The workspace of Azure Machine Learning.")
@click.option("--endpoint", required=True, help="The endpoint; made when it is missing.")
@click.option("--image", help="The bundle's image [default: no code, as an MLflow model].")
@click.option(
    "--instance-type", default="Standard_DS3_v2", show_default=True, help="Size of the machines."
)
@click.option("--instances", default=2, show_default=True, type=click.IntRange(1), help="Number.")
@click.option(
    "--percent",
    default=100,
    show_default=True,
    type=click.IntRange(0, 100),
    help="Share of the requests that the new deployment takes.",
)
@click.option("--batch", "compute", metavar="COMPUTE", help="A batch endpoint on these machines.")
@click.option("--force", is_flag=True, help="Deploy without a passed rehearsal.")
@as_json
def azureml(
    bundle: Path,
    *,
    subscription: str,
    group: str,
    workspace: str,
    endpoint: str,
    image: str | None,
    instance_type: str,
    instances: int,
    percent: int,
    compute: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Bring BUNDLE to a managed endpoint of Azure Machine Learning, blue and green.

    The new version goes to the deployment without traffic, must answer the samples as the registry
    does, and then takes its share; what fails is removed, and the traffic stays as it was.
    """
    from shoal.deploy import Bundle
    from shoal.deploy.azureml import AzureWorkspace, Online, deploy_batch, deploy_online

    opened = Bundle.open(bundle)
    _rehearsed(opened, force=force)
    told = _quiet if as_json else click.echo
    place = AzureWorkspace(subscription=subscription, group=group, name=workspace)
    if compute is not None:
        found = deploy_batch(place, opened, endpoint=endpoint, compute=compute, told=told)
    else:
        wanted = Online(
            endpoint=endpoint,
            image=image,
            instance_type=instance_type,
            instances=instances,
            percent=percent,
        )
        found = deploy_online(place, opened, wanted, told=told)
    if as_json:
        show.print_json(found)
    else:
        click.echo(", ".join(f"{key}: {value}" for key, value in found.items()))


@command("shoal deploy status delay --namespace ml", group=deploy)
@click.argument("name")
@_cluster_options
@as_json
def status(
    name: str, *, namespace: str, context: str | None, kubeconfig: str | None, as_json: bool
) -> None:
    """Show what runs under NAME."""
    from shoal.deploy.kubernetes.deploy import status as run

    _show(run(_cluster(context, kubeconfig), namespace, name), as_json=as_json)


@command("shoal deploy logs delay --namespace ml --lines 50", group=deploy)
@click.argument("name")
@_cluster_options
@click.option("--lines", default=100, show_default=True, help="Of each pod.")
@as_json
def logs(
    name: str,
    *,
    namespace: str,
    context: str | None,
    kubeconfig: str | None,
    lines: int,
    as_json: bool,
) -> None:
    """Print the last lines of each of NAME's pods."""
    from shoal.deploy.kubernetes.deploy import logs as run

    found = run(_cluster(context, kubeconfig), namespace, name, lines=lines)
    if as_json:
        show.print_json(found)
        return
    for pod, text in found.items():
        click.echo(click.style(pod, bold=True))
        click.echo(text)


@command("shoal deploy rollback delay --namespace ml", group=deploy)
@click.argument("name")
@_cluster_options
@as_json
def rollback_(
    name: str, *, namespace: str, context: str | None, kubeconfig: str | None, as_json: bool
) -> None:
    """Go back to the version of NAME before this one."""
    from shoal.deploy.kubernetes.deploy import rollback as run

    told = _quiet if as_json else click.echo
    _show(run(_cluster(context, kubeconfig), namespace, name, told=told), as_json=as_json)


@command("shoal deploy delete delay --namespace ml --canary", group=deploy)
@click.argument("name")
@_cluster_options
@click.option("--canary", is_flag=True, help="Only its canary.")
@as_json
def delete(
    name: str,
    *,
    namespace: str,
    context: str | None,
    kubeconfig: str | None,
    canary: bool,
    as_json: bool,
) -> None:
    """Delete what Shoal made for NAME."""
    from shoal.deploy.kubernetes.deploy import delete as run

    gone = run(_cluster(context, kubeconfig), namespace, name, canary=canary)
    if as_json:
        show.print_json(gone)
    else:
        click.echo("\n".join(gone))


@command(
    'shoal deploy job run --image registry.example/shop:1 --schedule "0 3 * * *"', group=deploy
)
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED)
@_cluster_options
@click.option("--image", required=True, help="Image with the project at /srv/project.")
@click.option("--name", help="Its name [default: shoal-COMMAND].")
@click.option("--schedule", help="Fields of cron; without, it runs once.")
@click.option("--time-zone", default="Etc/UTC", show_default=True, help="The schedule's.")
@click.option("--account", help="Service account, for workload identity.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Environment.")
@click.option("--secret", "secrets", multiple=True, help="Secret that becomes environment.")
@click.option("--print", "only", is_flag=True, help="Print the manifest instead of applying it.")
def job(
    arguments: tuple[str, ...],
    *,
    namespace: str,
    context: str | None,
    kubeconfig: str | None,
    image: str,
    name: str | None,
    schedule: str | None,
    time_zone: str,
    account: str | None,
    settings: tuple[str, ...],
    secrets: tuple[str, ...],
    only: bool,
) -> None:
    """Run, train or score in the cluster: a Job, or with --schedule a CronJob."""
    from shoal.deploy.kubernetes import dump
    from shoal.deploy.kubernetes import job as job_of
    from shoal.deploy.kubernetes.deploy import apply

    found = job_of(
        arguments,
        name=name or f"shoal-{arguments[0]}",
        namespace=namespace,
        image=image,
        schedule=schedule,
        time_zone=time_zone,
        account=account,
        settings=_pairs(settings),
        secrets=secrets,
    )
    if only:
        click.echo(dump(found), nl=False)
        return
    apply(_cluster(context, kubeconfig), [found])
    click.echo(f"Applied {found['kind']}/{found['metadata']['name']} in {namespace}")


@command("shoal deploy sail --image registry.example/sail:0.7 --namespace ml", group=deploy)
@_cluster_options
@click.option("--image", required=True, help="Image with pysail.")
@click.option("--name", default="sail", show_default=True, help="Name of its objects.")
@click.option("--workers", default=4, show_default=True, help="Most worker pods.")
@click.option("--identity", help="Client id of the workload identity that may read the lake.")
@click.option("--print", "only", is_flag=True, help="Print the manifests instead of applying them.")
def sail(
    *,
    namespace: str,
    context: str | None,
    kubeconfig: str | None,
    image: str,
    name: str,
    workers: int,
    identity: str | None,
    only: bool,
) -> None:
    """Start a Sail cluster: the engine of large projects, whose workers are pods."""
    from shoal.deploy.kubernetes import dump
    from shoal.deploy.kubernetes import sail as sail_of
    from shoal.deploy.kubernetes.deploy import apply

    found = sail_of(namespace=namespace, image=image, name=name, workers=workers, identity=identity)
    if only:
        click.echo("---\n".join(dump(one) for one in found), nl=False)
        return
    apply(_cluster(context, kubeconfig), found)
    click.echo(f'Applied. In shoal.toml: engine = "sc://{name}.{namespace}:50051"')

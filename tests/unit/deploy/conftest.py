"""One project with a registered fleet, and its bundle, for the folder's tests."""

from pathlib import Path
from typing import NamedTuple

import pytest

from fleets import CONTEXT, trained_fleet
from shoal.deploy import Bundle
from shoal.workspace import Workspace
from shoal.workspace.bundles import bundle_model


class Bundled(NamedTuple):
    root: Path
    bundle: Bundle


def registered(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "spark-pipeline.yml").write_text("name: flights\nstorage: lake\nlibraries: []\n")
    with Workspace.open(root) as space:
        space.tracker.record(trained_fleet(root), CONTEXT)
    return root


@pytest.fixture(scope="session")
def bundled(tmp_path_factory) -> Bundled:
    root = registered(tmp_path_factory.mktemp("bundled") / "flights")
    with Workspace.open(root) as space:
        return Bundled(root, bundle_model(space, "delay@champion", root / "bundles"))

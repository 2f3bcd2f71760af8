"""The workspace over a lake in an object store: new versions are noticed, and few requests made."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from shoal.ui import Access, Desk, create_ui
from shoal.workspace import Workspace
from stores import missing, proxied, running_azure, running_s3

TABLES = 12
PAGES = [
    "/",
    "/catalog",
    "/catalog/silver.t03",
    "/catalog/silver.t03?tab=rows",
    "/lineage",
    "/runs",
]


@pytest.fixture(params=["s3", pytest.param("azure", marks=pytest.mark.heavy)])
def served(request, tmp_path):
    """A desk, its client, and the proxy between it and the store."""
    if request.param == "azure" and (why := missing()):
        pytest.skip(why)
    running = {"s3": running_s3, "azure": running_azure}[request.param]
    (tmp_path / "store").mkdir()
    with running(tmp_path / "store") as cloud, proxied(cloud) as (far, proxy), far.set():
        root = tmp_path / "project"
        root.mkdir()
        (root / "spark-pipeline.yml").write_text(
            "name: far\nlibraries: [{glob: {include: transformations/**}}]\n"
            f"storage: {cloud.bucket()}/lake\n"
        )
        with Workspace.open(root) as space:
            for number in range(TABLES):
                table = space.lake.table(f"silver.t{number:02}")
                table.append(pa.table({"id": [1, 2, 3]}))
            desk = Desk(space)
            app = create_ui(desk, Access(), servers=[])
            yield desk, TestClient(app, base_url="http://127.0.0.1:8080"), proxy


def settled(desk: Desk) -> None:
    """Until the store has answered what is being asked."""
    while desk._looks._asking:
        threading.Event().wait(0.005)


def test_a_store_is_not_asked_for_what_is_known(served) -> None:
    desk, client, proxy = served
    for page in PAGES:
        assert client.get(page).status_code == 200, page
    proxy.seen()
    begun = desk._looks._seconds
    desk._looks._seconds = 3_600.0
    for page in PAGES:
        assert client.get(page).status_code == 200, page
    asked = proxy.seen()
    assert sum(asked.values()) == 0, asked
    # Old answers are asked for anew: whether each table has a newer version, and nothing is read.
    desk._looks._seconds = begun
    for _ in range(3):
        desk._looks._seconds = 0.0
        assert client.get("/catalog").status_code == 200
        settled(desk)
    asked = proxy.seen()
    assert asked["HEAD"] + asked["LIST"] + asked["GET"] > 0, asked
    assert asked["GET"] == 0, asked


def test_a_version_that_others_made_is_shown(served) -> None:
    desk, client, _ = served
    assert "<dt>Rows</dt><dd>3</dd>" in client.get("/catalog/silver.t03").text
    desk.space.lake.table("silver.t03").append(pa.table({"id": [4]}))
    desk._looks._seconds = 0.0  # each page lets the store be asked for the next
    client.get("/catalog/silver.t03")
    settled(desk)
    text = client.get("/catalog/silver.t03").text
    assert "<dt>Rows</dt><dd>4</dd>" in text
    desk.space.lake.table("silver.new").append(pa.table({"id": [4]}))
    client.get("/catalog")
    settled(desk)
    text = client.get("/catalog").text
    assert "silver.new" in text


def test_what_is_done_from_here_is_shown_at_once(served) -> None:
    desk, client, _ = served
    desk._looks._seconds = 3_600.0
    desk.space.lake.table("silver.t03").append(pa.table({"id": [4]}))
    desk.changed()
    page = client.get("/catalog/silver.t03")
    assert "<dt>Rows</dt><dd>4</dd>" in page.text
    token = page.text.partition('name="csrf" content="')[2].partition('"')[0]
    answer = client.post(
        "/catalog/silver.t03/restore", data={"csrf": token, "version": "0", "newest": "1"}
    )
    assert answer.status_code == 200, answer.text
    assert "<dt>Rows</dt><dd>3</dd>" in client.get("/catalog/silver.t03").text

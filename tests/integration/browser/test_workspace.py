"""What people do in the workspace, done by clicking in a real browser."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from urllib.parse import quote

import polars as pl
import pytest

from conftest import AXE, serving, watched

pytestmark = pytest.mark.heavy

KEY = quote('["north","M0000"]')
PICTURES = Path(__file__).parents[3] / "docs/screenshots"
QUERY = quote(
    "SELECT day, sum(kwh) AS kwh, avg(temperature) AS degrees\nFROM gold.features\n"
    "GROUP BY day ORDER BY day"
)
PAGES = {
    "home": "/",
    "catalog": "/catalog",
    "table": "/catalog/gold.features",
    "rows": "/catalog/gold.features?tab=rows&sort=kwh&desc=1",
    "profile": "/catalog/gold.features?tab=profile&against=0",
    "versions": "/catalog/gold.features?tab=versions",
    "quality": "/catalog/silver.readings?tab=quality",
    "files": "/catalog/gold.features?tab=files",
    "diff": "/catalog/gold.features/diff?from=0&to=1&key=region&key=meter&key=day",
    "restore": "/catalog/gold.features/restore?version=0",
    "lineage": "/lineage?focus=gold.features&column=last_week",
    "runs": "/runs",
    "mlflow": "/runs/mlflow",
    "fleets": "/fleets",
    "fleet": "/fleets/load",
    "fleet-versions": "/fleets/load?tab=versions",
    "card": "/fleets/load?tab=card",
    "segment": f"/fleets/load/segment?key={KEY}",
    "endpoints": "/endpoints",
    "sql": f"/sql?q={QUERY}",
}
LOOKS = {
    "light": {"width": 1280, "height": 800, "color_scheme": "light"},
    "dark": {"width": 1280, "height": 800, "color_scheme": "dark"},
    "phone": {"width": 390, "height": 844, "color_scheme": "light", "has_touch": True},
}
KEPT = {"home", "catalog", "profile", "lineage", "runs", "fleet", "segment", "endpoints", "sql"}


def settled(page) -> None:
    """Waits until the page's parts are loaded and its charts are drawn."""
    page.wait_for_load_state("load")
    page.locator("[aria-busy]").first.wait_for(state="detached")
    for chart in ("#scatter", "#series"):
        if page.locator(chart).count():
            page.locator(f"{chart}[data-drawn]").wait_for()
    if page.locator("#graph").count():
        page.locator("#graph[data-ready]").wait_for()
    if "/sql" in page.url and "q=" in page.url:
        page.locator("#result:not([hidden])").wait_for()


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_is_sound_for_everyone(browser, url, look):
    """No word in the console, no sideways scrolling, nothing that axe-core finds wrong."""
    problems = []
    axe = AXE.read_text() if AXE.exists() else None
    with watched(browser, url, **LOOKS[look]) as page:
        for name, path in PAGES.items():
            page.goto(path)
            settled(page)
            wide = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
            if wide > 0:
                problems.append(f"{name}: {wide} px wider than the {look}")
            if axe is not None:
                problems += [f"{name}: {found}" for found in checked(page, axe)]
            if os.environ.get("SHOAL_SCREENSHOTS") and name in KEPT:
                keep(page, f"{name}-{look}")
    assert not problems, "\n".join(problems)
    if axe is None:
        pytest.skip("axe-core is not there: make servers-heavy")


def checked(page, axe: str) -> list[str]:
    """What axe-core finds, by rule and element."""
    # The protocol of the browser's own tools runs it: the page's policy lets no script in.
    session = page.context.new_cdp_session(page)
    session.send("Runtime.evaluate", {"expression": axe})
    rules = json.dumps({"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
    found = session.send(
        "Runtime.evaluate",
        {
            "expression": f"axe.run({rules}).then(r => JSON.stringify(r.violations))",
            "awaitPromise": True,
            "returnByValue": True,
        },
    )
    session.detach()
    return [
        f"{one['id']}: {node['target']} {node['failureSummary'].splitlines()[1].strip()}"
        for one in json.loads(found["result"]["value"])
        for node in one["nodes"][:3]
    ]


def keep(page, name: str) -> None:
    """A picture for the documentation."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path)
    assert path.stat().st_size < 200_000


def test_from_home_to_the_evidence_and_a_promotion(page, root):
    page.goto("/")
    page.get_by_role("link", name="The evidence").click()
    page.wait_for_url(re.compile("verdict=won"))
    page.get_by_role("checkbox", name="Choose").nth(0).check()
    page.get_by_role("checkbox", name="Choose").nth(1).check()
    page.get_by_role("button", name="Promote…").click()
    page.get_by_role("heading", name="Promote 2 segments of version 2?").wait_for()
    page.get_by_label("Why, for the audit table").fill("they won in the browser")
    page.get_by_role("button", name="Promote 2 segments").click()
    page.get_by_role("status").filter(has_text="version 3 is the champion").wait_for()
    page.get_by_role("cell", name="they won in the browser").wait_for()
    moves = pl.read_delta(str(root / "lake/shoal/promotions"))
    assert moves.filter(pl.col("why") == "they won in the browser")["to_version"].to_list() == [3]
    # And back, as a whole.
    page.get_by_role("button", name="Roll back…").click()
    page.get_by_role("button", name="Roll back the whole fleet").click()
    page.get_by_role("status").filter(has_text="version 1 is the champion").wait_for()


def test_a_table_through_its_versions(page, root):
    page.goto("/catalog")
    page.get_by_role("link", name="regions", exact=True).click()
    page.get_by_role("heading", name="gold.regions").wait_for()
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_url(re.compile("version=0"))
    old = pl.read_delta(str(root / "lake/gold/regions"), version=0).height
    page.get_by_text(f"{old:,}", exact=True).first.wait_for()
    page.get_by_role("link", name="Rows", exact=True).click()
    page.get_by_label("Column").select_option("region")
    page.get_by_label("Value").fill("north")
    page.get_by_role("button", name="Filter").click()
    page.get_by_text("rows match").wait_for()
    page.get_by_role("link", name="kwh").click()
    page.locator('th[aria-sort]:has-text("kwh")').wait_for()
    page.get_by_role("link", name="Versions").click()
    page.get_by_role("button", name="Show the difference").click()
    page.get_by_text("Added", exact=True).wait_for()
    page.go_back()
    page.get_by_role("link", name="Restore version 0").click()
    page.get_by_role("button", name="Restore version 0").click()
    page.get_by_role("status").filter(has_text="Restored").wait_for()
    assert pl.read_delta(str(root / "lake/gold/regions")).height == old


def test_a_run_is_started_and_followed_to_its_end(page):
    page.goto("/runs")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url(re.compile("/runs/live/"))
    page.locator("#live[data-ended]").wait_for(timeout=180_000)
    assert page.get_by_role("status").inner_text() == "completed"
    # The restored view was computed anew, and nothing else.
    page.get_by_role("cell", name="refresh gold.regions").wait_for()
    page.get_by_role("link", name="Runs").last.click()
    page.get_by_text("shoal run").first.wait_for()


def test_a_fleet_seen_as_points(page):
    page.goto("/fleets")
    page.get_by_role("link", name="load", exact=True).click()
    settled(page)
    canvas = page.locator("#scatter canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] - 30, steps=5)
    page.mouse.up()
    page.wait_for_url(re.compile("omin="))
    settled(page)
    assert 0 < page.get_by_role("checkbox", name="Choose").count() <= 25
    page.get_by_role("link", name="Clear").click()
    page.get_by_label("region").select_option("north")
    page.wait_for_url(re.compile("by.region=north"))
    settled(page)
    # A point that is drawn is found by looking where its colour is.
    canvas = page.locator("#scatter canvas")
    at = canvas.evaluate(
        """canvas => {
          const c = canvas.getContext("2d"), d = devicePixelRatio;
          const pixels = c.getImageData(0, 0, canvas.width, canvas.height).data;
          const good = getComputedStyle(document.documentElement).getPropertyValue("--good").trim();
          const probe = document.createElement("canvas").getContext("2d");
          probe.fillStyle = good; probe.fillRect(0, 0, 1, 1);
          const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
          for (let i = 0; i < pixels.length; i += 4)
            if (Math.abs(pixels[i] - r) + Math.abs(pixels[i + 1] - g) + Math.abs(pixels[i + 2] - b) < 170
                && pixels[i + 1] > pixels[i] + 30)
              return [(i / 4) % canvas.width / d + 1, Math.floor(i / 4 / canvas.width) / d + 1];
        }"""
    )
    canvas.click(position={"x": at[0], "y": at[1]})
    page.wait_for_url(re.compile("/fleets/load/segment"))
    settled(page)
    page.get_by_role("heading", name="north").wait_for()


def test_lineage_by_search_click_and_column(page):
    page.goto("/lineage")
    settled(page)
    page.get_by_label("Find in the graph").fill("features")
    page.get_by_role("status").filter(has_text="1 found").wait_for()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="gold.features").wait_for()
    page.get_by_role("link", name="last_week").click()
    page.get_by_role("heading", name="Where last_week comes from").wait_for()
    assert "column=last_week" in page.url
    page.locator('.node[data-name="bronze.readings"]').click()
    page.get_by_role("heading", name="bronze.readings").wait_for()
    before = page.locator("#world").get_attribute("transform")
    page.get_by_role("button", name="Zoom in").click()
    page.locator(f'#world:not([transform="{before}"])').wait_for(state="attached")


def test_sql_with_completion_chart_export_and_no_writes(page, root):
    page.goto("/sql")
    area = page.get_by_label("Query")
    area.fill("")
    area.press_sequentially("SELECT region, sum(kwh) AS kwh FROM gold.reg")
    page.get_by_role("option", name="gold.regions").wait_for()
    page.keyboard.press("Enter")
    area.press_sequentially(" GROUP BY region ORDER BY region")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Enter")
    page.get_by_text("4 rows in").wait_for()
    wanted = pl.read_delta(str(root / "lake/gold/regions")).group_by("region").agg(pl.sum("kwh"))
    cells = page.locator("#rows tbody td").all_inner_texts()
    for region, kwh in wanted.rows():
        assert float(cells[cells.index(region) + 1]) == pytest.approx(kwh)
    page.get_by_role("button", name="Chart").click()
    page.locator("#chart canvas").wait_for()
    with page.expect_download() as found:
        page.get_by_role("button", name="Export").click()
    assert pl.read_csv(found.value.path()).height == 4


def test_a_write_is_refused_in_words(browser, url):
    # The browser itself notes that a request was refused.
    with watched(browser, url, width=1280, height=800, noted="status of 400") as page:
        page.goto("/sql")
        page.get_by_label("Query").fill("DROP TABLE gold.features")
        page.get_by_role("button", name="Run").click()
        page.get_by_role("alert").filter(has_text="Only queries are answered here").wait_for()


def test_a_request_is_tried_here_and_at_the_server(page, scoring):
    page.goto("/endpoints")
    settled(page)
    page.get_by_text("answers", exact=True).wait_for()
    page.get_by_label("temperature").fill("12")
    page.get_by_label("last_week").fill("21.5")
    page.get_by_role("button", name="Predict").click()
    page.locator("#prediction").wait_for()
    here = page.locator("#prediction dd").first.inner_text()
    page.get_by_label("Asked of").select_option(scoring)
    page.get_by_role("button", name="Predict").click()
    page.locator("#prediction", has_text=scoring).wait_for()
    assert page.locator("#prediction dd").first.inner_text() == here
    # The server counts it, and the page shows what it counts.
    page.locator("[data-every] td:nth-child(3)", has_text=re.compile("^[1-9]")).wait_for()


def test_mlflow_is_started_beside_and_opened(page):
    page.goto("/runs/mlflow")
    page.get_by_role("button", name="Start MLflow beside this").click()
    link = page.get_by_role("link", name="Open MLflow")
    link.wait_for(timeout=120_000)
    address = link.get_attribute("href")
    answer = page.request.get(f"{address}/health")
    assert answer.status == 200
    page.goto("/runs")
    assert page.get_by_role("link", name="in MLflow").count() >= 2


def test_keys_and_theme(page):
    page.goto("/catalog")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("/")
    assert page.evaluate("() => document.activeElement.id") == "find"
    page.keyboard.type("gold.features")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/catalog/gold.features"))
    ground = "() => getComputedStyle(document.body.parentElement).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Light or dark").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark


def test_a_viewer_enters_by_a_token_and_changes_nothing(browser, root):
    with serving(root, "ui", "--port", "0", "--token") as said:
        viewer = next(line for line in said.splitlines() if "viewer" in line).split()[-1]
        url = viewer.partition("/login")[0]
        with watched(browser, url, width=1280, height=800) as page:
            page.goto("/catalog")
            page.get_by_label("Token").fill(viewer.partition("token=")[2])
            page.get_by_role("button", name="Enter").click()
            page.get_by_role("heading", name="Catalog").wait_for()
            page.goto("/")
            page.get_by_role("heading", name="What to do next").wait_for()
            page.get_by_text("viewer", exact=True).wait_for()
            assert page.get_by_role("button", name="Run").count() == 0


def test_a_run_that_keeps_going_is_followed_and_stopped(page, root):
    page.goto("/runs")
    page.get_by_label("keep going").check()
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url(re.compile("/runs/live/"))
    page.get_by_text("it looks every few seconds").wait_for(timeout=180_000)
    reading = {"region": "north", "meter": "M0000", "day": "2024-12-31", "kwh": 9.5}
    landed = root / "landing/late.json"
    landed.write_text(json.dumps(reading | {"temperature": 3.0}) + "\n")
    os.utime(landed, (1_750_000_000, 1_750_000_000))
    page.get_by_role("cell", name="refresh bronze.readings").wait_for(timeout=120_000)
    page.get_by_text("Waits for what is new").wait_for(timeout=120_000)
    assert page.get_by_role("status").inner_text() == "running"
    page.get_by_role("button", name="Stop").click()
    page.locator("#live[data-ended]").wait_for(timeout=60_000)
    assert page.get_by_role("status").inner_text() == "interrupted"
    day = pl.col("day") == pl.date(2024, 12, 31)
    assert pl.read_delta(str(root / "lake/silver/readings")).filter(day).height == 1

"""The pages in a real browser: scripts run under the content policy, charts are drawn, and the page keeps itself fresh."""

import struct
from pathlib import Path

import httpx
import pytest

from tests.browser.conftest import Browse, Site
from tests.service.api.fleet import MEASURED
from tests.service.console.page import parse


def test_the_overview_shows_the_alert(browse: Browse, alert_ids: list[str]) -> None:
    seen = browse("/")

    page = parse(seen.dom)
    row = page.one("tr", data_alert=alert_ids[0])
    assert "Motor bearing wearing out" in row.text
    assert row.one("button").text == "Acknowledge"
    assert page.one("button", id="pause").text == "Pause"
    assert seen.complaints == []


def test_a_gate_draws_three_charts_with_their_values(browse: Browse) -> None:
    seen = browse(f"/gates/{MEASURED}")

    charts = {chart.attributes["data-chart"]: chart for chart in parse(seen.dom).all("div", class_="chart")}
    legends = {name: chart.one("table").text for name, chart in charts.items()}
    assert all(len(chart.all("canvas")) == 1 for chart in charts.values())
    assert "Days ahead 14 Whole gate 74 % Motor 72 %" in legends["forecast"]
    assert "2026-11-20 15:00" in legends["vibration"]
    assert "mm/s" in legends["vibration"]
    assert "°C" in legends["temperature"]
    assert seen.complaints == []


def test_the_reference_is_drawn_without_any_other_host(browse: Browse, site: Site) -> None:
    seen = browse("/docs", seconds=25)

    shown = parse(seen.dom)
    described = httpx.get(f"http://127.0.0.1:{site.port}/openapi.json").json()["paths"]
    assert len(shown.all("div", class_="opblock")) == sum(len(methods) for methods in described.values()) > 20
    assert "/openapi.json" in site.asked
    assert seen.complaints == []


def test_the_page_keeps_itself_fresh(browse: Browse, site: Site, alert_ids: list[str]) -> None:
    seen = browse("/", seconds=33)

    assert site.asked.count("/") == 3
    assert parse(seen.dom).all("tr", data_alert=alert_ids[0])
    assert seen.complaints == []


def test_charts_are_drawn_anew_when_a_page_refreshes_itself(browse: Browse, site: Site) -> None:
    seen = browse(f"/gates/{MEASURED}", seconds=62)

    assert site.asked.count(f"/gates/{MEASURED}") == 2
    assert len(parse(seen.dom).all("canvas")) == 3


def test_a_page_that_cannot_be_refreshed_says_so(browse: Browse, site: Site) -> None:
    site.broken_after = 1
    page = parse(browse("/", seconds=18).dom)

    lost = page.one("p", id="lost")
    assert "hidden" not in lost.attributes
    assert lost.text.startswith("Not live since ")
    assert "{time}" not in lost.text
    assert "is-lost" in page.one("body").attributes["class"]


@pytest.mark.parametrize("path", ["/", "/?lang=zh-CN", f"/gates/{MEASURED}?lang=zh-CN", "/login"])
def test_a_screenshot_has_the_size_of_an_operators_screen(browse: Browse, tmp_path: Path, path: str) -> None:
    file = tmp_path / "page.png"
    seen = browse(path, screenshot=file)

    assert struct.unpack(">II", file.read_bytes()[16:24]) == (1366, 768)
    assert seen.complaints == []

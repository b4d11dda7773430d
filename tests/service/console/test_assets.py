"""Every asset is our own, unchanged and small; the palette can be read by everybody."""

import hashlib
import re
from pathlib import Path

import pytest

from service.api.app import STATIC
from tests.service.api.client import TestClient
from tests.service.console.page import parse

VENDOR = STATIC / "vendor"
TEMPLATES = STATIC.parent / "templates"
OURS = [*STATIC.glob("*.*"), *TEMPLATES.glob("*.html")]
NAMES_ONLY = "http://www.w3.org/2000/svg"  # the name of a format, which nothing asks for


def test_vendored_files_are_those_whose_digests_were_written_down() -> None:
    rows = re.findall(r"^\| (\S+) \| (\S+ \S+) \| (\S+) \| ([0-9a-f]{64}) \|$", (VENDOR / "VENDOR.md").read_text(), re.M)

    listed = {name: digest for name, _, _, digest in rows}
    found = {
        str(file.relative_to(VENDOR)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in VENDOR.rglob("*")
        if file.suffix in (".js", ".css")
    }
    assert found == listed


def test_static_files_are_small_and_have_no_source_maps() -> None:
    files = [file for file in STATIC.rglob("*") if file.is_file()]

    assert not [file for file in files if file.suffix == ".map"]
    assert max(file.stat().st_size for file in files) <= 2_000_000


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.name)
def test_our_files_name_no_other_host(file: Path) -> None:
    text = file.read_text("utf-8").replace(NAMES_ONLY, "")

    assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text)
    assert "@import" not in text


@pytest.mark.parametrize("file", sorted(TEMPLATES.glob("*.html")), ids=lambda file: file.name)
def test_templates_hold_nothing_that_the_content_policy_forbids(file: Path) -> None:
    text = file.read_text("utf-8")

    assert not re.search(r"\sstyle=|\son\w+=|javascript:|<style", text)
    assert not re.search(r"<script(?![^>]*(src=|type=\"application/json\"))", text)


@pytest.mark.parametrize("path", ["/login", "/docs"])
def test_pages_before_sign_in_load_their_own_assets_only(stranger: TestClient, path: str) -> None:
    check_assets(stranger, path)


@pytest.mark.parametrize("path", ["/", "/gates/DSH-S3-G1", "/alerts/{alert}", "/nothing"])
def test_pages_load_their_own_assets_only(console: TestClient, alert_ids: list[str], path: str) -> None:
    check_assets(console, path.replace("{alert}", alert_ids[0]))


def check_assets(client: TestClient, path: str) -> None:
    page = parse(client.get(path, headers={"Accept": "text/html"}).text)
    wanted = [one.attributes[name] for one in page.walk() for name in ("src", "href") if name in one.attributes]
    loaded = [one.attributes["src"] for one in page.all("script") if "src" in one.attributes]
    loaded += [one.attributes["href"] for one in page.all("link")]

    assert loaded
    assert all(re.match(r"/(?!/)|#", url) for url in wanted)
    assert all(client.get(url).status_code == 200 for url in loaded)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_of_known_pairs_is_as_published() -> None:
    assert contrast("#FFFFFF", "#FF0000") == pytest.approx(4.00, abs=0.005)
    assert contrast("#FFFF00", "#FFFFFF") == pytest.approx(1.07, abs=0.005)


def test_every_text_of_the_palette_can_be_read() -> None:
    css = (STATIC / "console.css").read_text()
    colour = dict(re.findall(r"--([a-z-]+): (#[0-9A-F]{6});", css))

    for name in ("critical", "high", "medium", "low", "normal", "no-data"):
        assert contrast(colour[name], colour[f"{name}-text"]) >= 4.5, name
    for text in ("text", "quiet", "link", "critical"):
        for ground in ("page", "panel"):
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    assert contrast(colour["outline"], colour["medium"]) >= 3


def test_chart_lines_can_be_told_from_their_ground() -> None:
    script = (STATIC / "console.js").read_text()
    lines = re.findall(r"#[0-9A-F]{6}", script.split("COLOURS = [")[1].split("]")[0])

    assert len(lines) == len(set(lines))
    assert all(contrast(line, "#FFFFFF") >= 3 for line in lines)

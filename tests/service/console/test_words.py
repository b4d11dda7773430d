"""Two languages say the same things; times are the site's; ages are rounded down."""

import re
from datetime import UTC, datetime, timedelta
from string import Formatter

import pytest

from models.drift import LOOKED_AT
from pipeline.dataset import FINDINGS
from pipeline.operations import JUDGED
from pipeline.sensor_health import KINDS
from pipeline.simulator import degradation
from service import advice, events
from service import alerts as life
from service.console import words
from service.console.views.parts import percent
from service.console.words import Words

EN, ZH = words.catalogue("en"), words.catalogue("zh-CN")
T = datetime(2026, 11, 20, 2, 10, tzinfo=UTC)


def test_both_languages_have_every_text() -> None:
    assert set(EN) == set(ZH)
    assert all(text.strip() for text in (*EN.values(), *ZH.values()))


def test_both_languages_fill_in_the_same_values() -> None:
    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in Formatter().parse(text) if name}

    assert {key: fields(text) for key, text in EN.items()} == {key: fields(text) for key, text in ZH.items()}


def test_the_chinese_texts_are_chinese() -> None:
    alike = {key for key, text in ZH.items() if not re.search(r"[\u4e00-\u9fff]", text)}

    assert alike <= {"strip.reporting_value", "lost.line", "drift.and"}


def test_severity_is_never_called_by_a_public_warning_colour() -> None:
    assert not [text for text in ZH.values() if re.search(r"预警|[红橙黄蓝]色", text)]


def test_every_code_that_the_system_uses_has_a_text() -> None:
    codes = {
        "mode": set(advice.ACTIONS),
        "finding": set(FINDINGS),
        "severity": set(life.SEVERITIES),
        "state": set(life.STATES),
        "event": {*events.ALERT_EVENTS, "alert.dropped"},
        "drift": {"no_reference", "not_enough_data", "in_line", "drift"},
        "drift.of": {name.partition("_")[0] for name in LOOKED_AT},
        "delivery": {"pending", "held", "delivered", "failed", "dropped"},
        "notice": set(life.NOTICE_ENDS),
        "reason": {"young", "idle", "stale", "under_repair", "sensors", "not_scored", "outdated"},
        "short": {"young", "idle", "stale", "under_repair", "sensors", "not_scored", "outdated"},
        "lost": set(KINDS),
        "quantity": set(JUDGED) - {"envelope_bpfo", "envelope_bpfi", "envelope_bsf", "envelope_ftf", "gear_mesh"},
        "kind": {"failure", "repair", "replacement", "lubrication", "inspection"},
        "component": {"", "motor", "gearbox", "brake", "leaf", "hydraulic", "screw", "drum", "station"},
    }

    assert {f"{family}.{code}" for family, known in codes.items() for code in known} <= set(EN)
    assert {f"mode.{mode}" for mode in degradation.MODES} <= set(EN)


def test_a_code_without_a_text_is_shown_as_it_is() -> None:
    assert Words("zh-CN").code("mode", "new_kind_of_wear") == "new_kind_of_wear"


@pytest.mark.parametrize(
    ("asked", "remembered", "browser", "expected"),
    [
        ("zh-CN", "en", "en", "zh-CN"),
        ("fr", "zh-CN", "en", "zh-CN"),
        (None, None, "zh-TW,zh;q=0.9,en;q=0.8", "zh-CN"),
        (None, None, "en;q=0.8, zh;q=0.9", "zh-CN"),
        (None, None, "de, en-GB;q=0.1", "en"),
        (None, None, "de", "en"),
        (None, None, "zh;q=no, en", "en"),
        (None, None, None, "en"),
    ],
)
def test_the_language_is_the_asked_the_remembered_or_the_browsers(
    asked: str | None, remembered: str | None, browser: str | None, expected: str
) -> None:
    assert words.choose_language(asked, remembered, browser) == expected


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("Asia/Shanghai", "2026-11-20 10:10 UTC+8"),
        ("Asia/Kolkata", "2026-11-20 07:40 UTC+5:30"),
        ("America/St_Johns", "2026-11-19 22:40 UTC-3:30"),
        ("Europe/London", "2026-11-20 02:10 UTC"),
        ("Nowhere/Land", "2026-11-20 02:10 UTC"),
        ("../etc/passwd", "2026-11-20 02:10 UTC"),
        (None, "2026-11-20 02:10 UTC"),
        ("", "2026-11-20 02:10 UTC"),
    ],
)
def test_times_are_the_sites_with_their_offset(zone: str | None, expected: str) -> None:
    assert words.site_time(T, zone) == expected


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (timedelta(seconds=-5), "0 s"),
        (timedelta(seconds=119), "119 s"),
        (timedelta(seconds=120), "2 min"),
        (timedelta(minutes=119), "119 min"),
        (timedelta(hours=2), "2 h"),
        (timedelta(hours=71, minutes=59), "71 h"),
        (timedelta(days=3), "3 days"),
        (timedelta(days=3, hours=23), "3 days"),
    ],
)
def test_an_age_is_said_in_its_largest_fitting_unit(span: timedelta, expected: str) -> None:
    assert Words("en").duration(span) == expected


def test_what_is_due_says_whether_it_is_too_late() -> None:
    say = Words("en").due

    assert say(T + timedelta(hours=5), T) == "in 5 h"
    assert say(T - timedelta(days=4), T) == "overdue by 4 days"


def test_a_name_falls_back_to_the_other_language_and_then_to_the_id() -> None:
    assert Words("zh-CN").name("Gate 1", "1号闸门", "G1") == "1号闸门"
    assert Words("zh-CN").name("Gate 1", None, "G1") == "Gate 1"
    assert Words("en").name(None, "1号闸门", "G1") == "1号闸门"
    assert Words("en").name(None, None, "G1") == "G1"


@pytest.mark.parametrize(
    ("p", "expected"), [(0.0, "< 1 %"), (0.0099, "< 1 %"), (0.01, "1 %"), (0.724, "72 %"), (0.99, "99 %"), (0.991, "> 99 %")]
)
def test_no_probability_is_rounded_to_never_or_always(p: float, expected: str) -> None:
    assert percent(p).replace("\u00a0", " ") == expected

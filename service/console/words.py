"""What the pages say, in English and Chinese: a flat catalogue per language, times in the site's zone, ages in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

LANGUAGES = ("en", "zh-CN")


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """Every text of one language by key."""
    text = files("service.console").joinpath("locales", f"{language}.json").read_text("utf-8")
    loaded: dict[str, str] = json.loads(text)
    return loaded


def choose_language(asked: str | None, remembered: str | None, accept_language: str | None) -> str:
    """Pick a language: `?lang=`, else the remembered one, else the first of the browser's that we speak, else English.

    Examples
    --------
    >>> choose_language(None, None, "fr;q=0.9, zh-TW, en;q=0.2")
    'zh-CN'
    """
    for choice in (asked, remembered):
        if choice in LANGUAGES:
            return choice
    wishes = []
    for order, wish in enumerate((accept_language or "").split(",")):
        name, _, quality = wish.strip().partition(";q=")
        try:
            weight = float(quality or 1)
        except ValueError:
            weight = 0.0
        wishes.append((-weight, order, name.lower()))
    for _, _, name in sorted(wishes):
        for language in LANGUAGES:
            if name.split("-")[0] == language.split("-")[0]:
                return language
    return "en"


@dataclass(frozen=True, slots=True)
class Words:
    """The texts of one language."""

    language: str

    def __call__(self, key: str, **values: object) -> str:
        """Return the text of `key` with its values filled in; an unknown key is a programming error."""
        return catalogue(self.language)[key].format(**values)

    def code(self, family: str, code: str | None) -> str:
        """Return the text of a code such as a component; a code without a text (they are open) is shown as it is."""
        return catalogue(self.language).get(f"{family}.{code or ''}") or str(code)

    def name(self, name: str | None, name_zh: str | None, identifier: str) -> str:
        """Return a gate's or station's name in this language, else in the other, else its id."""
        choices = (name_zh, name) if self.language.startswith("zh") else (name, name_zh)
        return next((choice for choice in choices if choice), identifier)

    def duration(self, span: timedelta) -> str:
        """Say a span in its largest fitting unit, rounded down.

        Examples
        --------
        >>> Words("en").duration(timedelta(hours=50))
        '50 h'
        """
        seconds = max(0, int(span.total_seconds()))
        for unit, length, from_n in (("days", 86_400, 3), ("hours", 3_600, 2), ("minutes", 60, 2)):
            if seconds >= length * from_n:
                return self(f"unit.{unit}", n=seconds // length)
        return self("unit.seconds", n=seconds)

    def age(self, instant: datetime, now: datetime) -> str:
        """Say how long ago an instant was."""
        return self("unit.ago", age=self.duration(now - instant))

    def due(self, instant: datetime, now: datetime) -> str:
        """Say how much time is left, or how long something is overdue."""
        if instant >= now:
            return self("unit.left", age=self.duration(instant - now))
        return self("unit.overdue", age=self.duration(now - instant))


def site_time(instant: datetime, zone: str | None) -> str:
    """Say an instant in a site's zone with its offset; UTC where the zone is unknown.

    Examples
    --------
    >>> site_time(datetime.fromisoformat("2026-11-20T02:10:00Z"), "Asia/Shanghai")
    '2026-11-20 10:10 UTC+8'
    """
    local = instant.astimezone(find_zone(zone))
    minutes = int((local.utcoffset() or timedelta(0)).total_seconds() // 60)
    if minutes == 0:
        return f"{local:%Y-%m-%d %H:%M} UTC"
    hours, rest = divmod(abs(minutes), 60)
    offset = f"{'+' if minutes > 0 else '-'}{hours}" + (f":{rest:02d}" if rest else "")
    return f"{local:%Y-%m-%d %H:%M} UTC{offset}"


def site_day(instant: datetime, zone: str | None) -> str:
    """Say an instant's calendar day in a site's zone."""
    return f"{instant.astimezone(find_zone(zone)):%Y-%m-%d}"


@cache
def find_zone(name: str | None) -> ZoneInfo:
    """Return the zone of that name, or UTC."""
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")

"""Sessions: what we signed opens, nothing else does."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.console import session

NOW = datetime(2026, 11, 20, 8, tzinfo=UTC)
KEY = b"k" * 32


def test_a_session_lasts_twelve_hours_and_not_a_second_more() -> None:
    cookie = session.seal("abcd1234", NOW, KEY)

    assert session.open_seal(cookie, NOW + timedelta(hours=12, seconds=-1), KEY) == "abcd1234"
    assert session.open_seal(cookie, NOW + timedelta(hours=12), KEY) is None


def test_a_changed_cookie_does_not_open() -> None:
    cookie = session.seal("abcd1234", NOW, KEY)
    for place in range(len(cookie)):
        wrong = cookie[:place] + ("0" if cookie[place] != "0" else "1") + cookie[place + 1 :]

        assert session.open_seal(wrong, NOW, KEY) is None


@given(st.text())
def test_any_cookie_is_refused_without_an_error(cookie: str) -> None:
    assert session.open_seal(cookie, NOW, KEY) is None


@pytest.mark.parametrize("other", [b"", b"k" * 31])
def test_another_key_does_not_open(other: bytes) -> None:
    assert session.open_seal(session.seal("abcd1234", NOW, KEY), NOW, other) is None


def test_a_form_token_belongs_to_one_session() -> None:
    mine, other = session.seal("abcd1234", NOW, KEY), session.seal("abcd1235", NOW, KEY)

    assert session.token_matches(session.form_token(mine, KEY), mine, KEY)
    assert not session.token_matches(session.form_token(other, KEY), mine, KEY)
    assert not session.token_matches("", mine, KEY)
    assert mine.rpartition(".")[2] != session.form_token(mine, KEY)

"""API keys: their form, their checksum, and that only a digest is kept."""

import math
import re
import zlib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from pipeline.errors import BadInput
from service import store
from service.api import auth, keys
from tests.service.api import fleet

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def test_a_key_has_the_published_form_and_256_random_bits() -> None:
    made = keys.new_key()

    assert re.fullmatch(r"gk_[0-9A-Za-z]{8}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}", made.text)
    assert 43 * math.log2(62) >= 256


def test_the_last_part_is_the_crc_of_the_rest_in_base_62() -> None:
    body, _, crc = keys.new_key().text.rpartition("_")

    assert sum(ALPHABET.index(digit) * 62**place for place, digit in enumerate(reversed(crc))) == zlib.crc32(body.encode())


def test_a_typing_error_is_seen_without_the_database() -> None:
    text = keys.new_key().text
    for place in range(3, len(text)):
        wrong = text[:place] + ("x" if text[place] != "x" else "y") + text[place + 1 :]

        assert keys.key_id_of(wrong) is None


@given(st.text(max_size=80))
def test_any_text_is_refused_without_an_error(text: str) -> None:
    assert keys.key_id_of(text) is None


def test_a_key_does_not_show_itself() -> None:
    made = keys.new_key()

    assert made.text not in repr(made)
    assert made.text not in f"{[made]}"


def test_the_database_holds_no_usable_key(fleet_engine: Engine, tmp_path: Path) -> None:
    made = fleet.make_key(fleet_engine)

    with fleet_engine.connect() as connection:
        row = store.find_api_key(connection, made.key_id)
    for file in tmp_path.glob("fleet.sqlite*"):
        assert made.text.split("_")[2].encode() not in file.read_bytes()
    assert row is not None
    assert row["sha256"] == made.sha256


@pytest.mark.parametrize("scopes", [(), ("gates:read", "everything")])
def test_a_key_needs_known_scopes(fleet_engine: Engine, scopes: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match="allowed are gates:read"):
        auth.create_key(fleet_engine, name="x", scopes=scopes, at=fleet.NOW, actor=fleet.TEST)


def test_expired_revoked_unknown_and_forged_keys_are_nobody(fleet_engine: Engine) -> None:
    expires = fleet.NOW + timedelta(hours=1)
    expiring = auth.create_key(fleet_engine, name="x", scopes=["gates:read"], at=fleet.NOW, actor=fleet.TEST, expires_at=expires)
    revoked = fleet.make_key(fleet_engine)
    with fleet_engine.begin() as connection:
        store.revoke_api_key(connection, revoked.key_id, at=fleet.NOW, actor=fleet.TEST)
    forged = f"gk_{expiring.key_id}_{keys.new_key().text.split('_')[2]}"

    with fleet_engine.connect() as connection:

        def who(text: str, now=fleet.NOW):  # type: ignore[no-untyped-def]  # a shorthand
            return auth.find_principal(connection, text, now)

        assert who(expiring.text) is not None
        assert who(expiring.text, expires) is None
        assert who(revoked.text) is None
        assert who(keys.new_key().text) is None
        assert who(f"{forged}_{keys._crc(forged)}") is None

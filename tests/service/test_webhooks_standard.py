"""Signatures: the published vector, the reference library as judge, rotation, and secrets that do not lie readable."""

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BadInput
from service.webhooks import standard
from service.webhooks.standard import SignatureError, Vault

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = datetime(2026, 3, 1, 8, 15, tzinfo=UTC)


def test_the_published_vector_gives_the_published_signature() -> None:
    at = datetime.fromtimestamp(1614265330, UTC)

    signature = standard.sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}')

    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(
    key=st.binary(min_size=24, max_size=64),
    webhook_id=st.from_regex(r"msg_[A-Za-z0-9]{1,40}", fullmatch=True),
    text=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["闸门轴承磨损", "“3号站1号闸”"]),
)
def test_the_reference_library_accepts_whatever_we_sign(key: bytes, webhook_id: str, text: str) -> None:
    secret = standard.PREFIX + base64.b64encode(key).decode()
    body = b'{"text":"%s"}' % text.encode().hex().encode()

    now = datetime.now(UTC)  # the reference library asks the real clock
    headers = standard.headers([secret], webhook_id, now, body)

    assert standardwebhooks.Webhook(secret).verify(body, headers)
    standard.verify(secret, headers, body, now)


def test_one_instant_has_one_signature_in_every_time_zone() -> None:
    shanghai = NOW.astimezone(timezone(timedelta(hours=8)))

    assert standard.sign(SECRET, "msg_1", shanghai, b"{}") == standard.sign(SECRET, "msg_1", NOW, b"{}")


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        standard.sign(SECRET, "msg_1", NOW.replace(tzinfo=None), b"{}")


def test_during_a_rotation_a_receiver_with_either_secret_can_verify() -> None:
    old, new = standard.new_secret(), standard.new_secret()

    now = datetime.now(UTC)  # the reference library asks the real clock

    headers = standard.headers([new, old], "msg_1", now, b"{}")

    for secret in (old, new):
        assert standardwebhooks.Webhook(secret).verify(b"{}", headers) == {}
        standard.verify(secret, headers, b"{}", now)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"webhook-signature": None}, "missing"),
        ({"webhook-signature": "nonsense"}, "none of them"),
        ({"webhook-timestamp": "yesterday"}, "unix seconds"),
        ({"webhook-timestamp": "9" * 30}, "unix seconds"),
        ({"webhook-id": "msg_2"}, "none of them"),
    ],
)
def test_a_tampered_message_is_refused_with_the_reason(change: dict[str, str | None], complaint: str) -> None:
    headers = standard.headers([SECRET], "msg_1", NOW, b"{}") | change

    with pytest.raises(SignatureError, match=complaint):
        standard.verify(SECRET, {name: value for name, value in headers.items() if value is not None}, b"{}", NOW)


def test_a_message_from_six_minutes_ago_is_refused_as_a_replay() -> None:
    headers = standard.headers([SECRET], "msg_1", NOW, b"{}")

    standard.verify(SECRET, headers, b"{}", NOW + timedelta(minutes=5))
    with pytest.raises(SignatureError, match="5 minutes"):
        standard.verify(SECRET, headers, b"{}", NOW + timedelta(minutes=6))


def test_a_new_secret_holds_32_random_bytes() -> None:
    first, second = standard.new_secret(), standard.new_secret()

    assert first != second
    assert len(base64.b64decode(first.removeprefix("whsec_"))) == 32


@pytest.mark.parametrize("secret", ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_dG9vIHNob3J0", "whsec_!", "whsec_"])
def test_what_is_not_a_secret_is_refused(secret: str) -> None:
    with pytest.raises(BadInput, match="webhook secret"):
        standard.sign(secret, "msg_1", NOW, b"{}")


def test_a_sealed_secret_does_not_show_and_opens_with_its_own_key_only() -> None:
    vault, other = Vault(Vault.new_key()), Vault(Vault.new_key())

    sealed = vault.seal(SECRET)

    assert SECRET.removeprefix("whsec_").encode() not in sealed
    assert vault.open(sealed) == SECRET
    with pytest.raises(BadInput, match="another key"):
        other.open(sealed)


def test_a_key_that_is_no_key_is_refused() -> None:
    with pytest.raises(BadInput, match="secret key"):
        Vault(b"too short")


def test_header_names_may_come_in_any_case() -> None:
    headers = standard.headers([SECRET], "msg_1", NOW, b"{}")

    standard.verify(SECRET, {name.title(): value for name, value in headers.items()}, b"{}", NOW)

"""API keys: how they look, what they may do, and how one is recognised. Only the digest of a key is ever kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from dataclasses import dataclass

SCOPES: dict[str, str] = {
    "gates:read": "gates, readings, forecasts, operations, maintenance records and quarantine",
    "alerts:read": "alerts",
    "alerts:write": "acknowledge and resolve alerts",
    "feedback:write": "record maintenance",
    "models:read": "registered models",
    "models:activate": "let a model speak: release one that is on hold",
    "webhooks:admin": "webhook endpoints and their deliveries",
}
"""What a key may do. A route without one of these is refused by a test."""

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH, _RANDOM_LENGTH, _CRC_LENGTH = 8, 43, 6


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made; `text` is shown once and then forgotten."""

    key_id: str
    text: str
    sha256: str

    def __repr__(self) -> str:
        return f"NewKey(key_id={self.key_id!r})"  # the text must not reach a log


def new_key() -> NewKey:
    """Make a key ``gk_<8 id>_<43 random>_<6 crc>``; 43 digits of base 62 hold 256 random bits."""
    key_id = _random_digits(_ID_LENGTH)
    body = f"gk_{key_id}_{_random_digits(_RANDOM_LENGTH)}"
    text = f"{body}_{_crc(body)}"
    return NewKey(key_id=key_id, text=text, sha256=digest(text))


def digest(text: str) -> str:
    """SHA-256 of a whole key; enough for 256 random bits, where a password would need a slow hash."""
    return hashlib.sha256(text.encode()).hexdigest()


def key_id_of(text: str) -> str | None:
    """Return the id of a well-formed key, or None; the checksum spares the database a look for typing errors."""
    parts = text.split("_")
    if len(parts) != 4 or parts[0] != "gk" or not text.isascii() or not all(part.isalnum() for part in parts):
        return None
    if (len(parts[1]), len(parts[2])) != (_ID_LENGTH, _RANDOM_LENGTH):
        return None
    return parts[1] if hmac.compare_digest(parts[3], _crc(text.rpartition("_")[0])) else None


def matches(text: str, sha256: str) -> bool:
    """Compare a presented key with a stored digest in constant time."""
    return hmac.compare_digest(digest(text), sha256)


def _random_digits(n: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(n))


def _crc(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CRC_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits

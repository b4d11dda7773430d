"""Standard Webhooks 1.0: secrets, signatures, and the vault that keeps secrets unreadable at rest. It sends nothing.

Signing is our own few lines, because the `standardwebhooks` package signs wrongly, without complaint, given bytes or an
aware time that is not UTC; our tests verify with that package.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from cryptography.fernet import Fernet, InvalidToken

from pipeline.errors import BadInput, SluicewatchError

PREFIX = "whsec_"
SECRET_BYTES = 32
TOLERANCE = timedelta(minutes=5)


class SignatureError(SluicewatchError):
    """A message was not signed with the secret, or too long ago; the message says which."""


def new_secret() -> str:
    """A secret of 32 random bytes, to be shown once: ``whsec_`` and base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(secret: str, webhook_id: str, at: datetime, body: bytes) -> str:
    """The signature of one body: ``v1,`` and the base64 of HMAC-SHA256 over ``{id}.{unix seconds}.{body}``.

    Raises
    ------
    BadInput
        The secret is not ``whsec_`` and the base64 of 24 to 64 bytes.
    """
    if at.tzinfo is None:
        raise ValueError(f"the time of an attempt must be aware; got naive {at!r}")
    signed = b".".join((webhook_id.encode(), str(int(at.timestamp())).encode(), body))
    return "v1," + base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()


def headers(signing: Sequence[str], webhook_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers of one attempt; one signature per secret, so that a rotation has no gap."""
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(sign(secret, webhook_id, at, body) for secret in signing),
    }


def verify(secret: str, received: Mapping[str, str], body: bytes, now: datetime) -> None:
    """Check a received message as any receiver should; header names in any case.

    Raises
    ------
    SignatureError
        A header is missing, the time is more than 5 minutes off, or no ``v1`` signature fits.
    """
    given = {name.lower(): value for name, value in received.items()}
    try:
        webhook_id, stamp = given["webhook-id"], given["webhook-timestamp"]
        signatures = given["webhook-signature"].split()
        at = datetime.fromtimestamp(int(stamp), tz=now.tzinfo)
    except KeyError as missing:
        raise SignatureError(f"header {missing} is missing") from None
    except (ValueError, OverflowError):
        raise SignatureError(f"webhook-timestamp: allowed are unix seconds; got {stamp!r}") from None
    if abs(now - at) > TOLERANCE:
        raise SignatureError(f"webhook-timestamp: allowed are 5 minutes around {now.isoformat()}; got {at.isoformat()}")
    wanted = sign(secret, webhook_id, at, body).encode()
    if not any(hmac.compare_digest(wanted, signature.encode()) for signature in signatures):
        raise SignatureError("webhook-signature: none of them was made with this secret")


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(PREFIX) or not 24 <= len(key) <= 64:
        raise BadInput(f"webhook secret: allowed is {PREFIX} and the base64 of 24 to 64 bytes")
    return key


class Vault:
    """Seals what must not lie readable in the database, with one key (Fernet: AES-128-CBC and HMAC-SHA256)."""

    def __init__(self, key: bytes) -> None:
        try:
            self._fernet = Fernet(key)
        except ValueError:
            raise BadInput("secret key: allowed is the urlsafe base64 of 32 bytes; got something else") from None

    @staticmethod
    def new_key() -> bytes:
        """A random key, as text of 44 bytes."""
        return Fernet.generate_key()

    def seal(self, secret: str) -> bytes:
        """The secret, unreadable without the key."""
        return self._fernet.encrypt(secret.encode())

    def open(self, sealed: bytes) -> str:
        """The secret again.

        Raises
        ------
        BadInput
            It was sealed with another key.
        """
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken:
            raise BadInput("secret key: the webhook secrets in this database were sealed with another key") from None

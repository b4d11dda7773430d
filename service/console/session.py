"""Who is signed in to the console: a signed cookie that names an API key, and a token against forged forms.

Nothing is stored, and the time is an argument.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

COOKIE = "sluicewatch_session"
LIFETIME = timedelta(hours=12)


def seal(key_id: str, now: datetime, signing_key: bytes) -> str:
    """Make the cookie of a session that begins `now`; it holds the key's id, never the key."""
    body = f"{key_id}.{int((now + LIFETIME).timestamp())}"
    return f"{body}.{_sign('session', body, signing_key)}"


def open_seal(cookie: str, now: datetime, signing_key: bytes) -> str | None:
    """Return the key id of a cookie that we signed and that has not expired, else None."""
    body, _, mark = cookie.rpartition(".")
    key_id, _, expires = body.partition(".")
    if not hmac.compare_digest(mark.encode(), _sign("session", body, signing_key).encode()):
        return None
    return key_id if now < datetime.fromtimestamp(int(expires), UTC) else None


def form_token(cookie: str, signing_key: bytes) -> str:
    """Make the token that every form of a session carries; another site cannot know it."""
    return _sign("form", cookie, signing_key)


def token_matches(token: str, cookie: str, signing_key: bytes) -> bool:
    """Compare a form's token in constant time."""
    return hmac.compare_digest(token.encode(), form_token(cookie, signing_key).encode())


def _sign(purpose: str, text: str, signing_key: bytes) -> str:
    return hmac.new(signing_key, f"{purpose}\x1f{text}".encode(), hashlib.sha256).hexdigest()

"""Cursors: where the next page of one very query starts. Opaque to clients, checked on the way back, kept nowhere."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Annotated, Any

from fastapi import Query

from service.api.problems import FieldError, Problem

Limit = Annotated[int, Query(ge=1, le=500, description="How many items a page holds at most.")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next` of the page before, as it came.")]


def encode(position: list[Any], query: dict[str, Any]) -> str:
    """Make the cursor that continues `query` after `position` (the sort key of the last item shown)."""
    text = json.dumps(position, separators=(",", ":"))
    return base64.urlsafe_b64encode(f"{_mark(text, query)}{text}".encode()).decode().rstrip("=")


def decode(cursor: str | None, query: dict[str, Any], *kinds: type) -> list[Any] | None:
    """Return the position in `cursor`, one value of each of `kinds`, or None for the first page.

    Raises
    ------
    Problem
        ``bad_cursor``: it was changed, or belongs to another query.
    """
    if cursor is None:
        return None
    try:
        plain = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        mark, text = plain[:16], plain[16:]
        position = json.loads(text)
    except (binascii.Error, ValueError):
        mark, text, position = "", "", None
    fits = isinstance(position, list) and [type(value) for value in position] == list(kinds)
    if mark != _mark(text, query) or not fits:
        error = FieldError(pointer="/query/cursor", code="bad_cursor", message="not a cursor of this query")
        raise Problem("bad_cursor", "The cursor was changed or belongs to another query.", errors=[error])
    return list(position)


def _mark(text: str, query: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([text, query], sort_keys=True, default=str).encode()).hexdigest()[:16]

"""Who asks, and may they: API keys in `Authorization: Bearer`, one declared scope per route, nothing allowed by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Request, Security
from fastapi.params import Query
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from sqlalchemy.engine import Connection, Engine

from pipeline.errors import BadInput
from pipeline.historian import writing
from service import store
from service.api import keys
from service.api.context import Here
from service.api.problems import FieldError, Problem

_USE_NOTED_EVERY = timedelta(minutes=10)  # so that reading does not cost a write each time


@dataclass(frozen=True, slots=True)
class Principal:
    """The key that asks, by its name."""

    key_id: str
    name: str
    scopes: frozenset[str]
    last_used_at: datetime | None


def create_key(
    engine: Engine,
    *,
    name: str,
    scopes: Sequence[str],
    at: datetime,
    actor: store.Actor,
    expires_at: datetime | None = None,
) -> keys.NewKey:
    """Make and keep a key; its text is in the return value and nowhere else.

    Raises
    ------
    BadInput
        A scope is unknown, none was given, or the name is empty.
    """
    unknown = sorted(set(scopes) - set(keys.SCOPES))
    if unknown or not scopes:
        raise BadInput(f"scopes: allowed are {', '.join(keys.SCOPES)}; got {', '.join(unknown) or 'none'}")
    if not name.strip():
        raise BadInput("name: a key needs a name that tells who uses it; got an empty one")
    made = keys.new_key()
    with writing(engine) as connection:
        store.add_api_key(
            connection,
            key_id=made.key_id,
            sha256=made.sha256,
            name=name.strip(),
            scopes=sorted(set(scopes)),
            at=at,
            actor=actor,
            expires_at=expires_at,
        )
    return made


def find_principal(connection: Connection, text: str, now: datetime) -> Principal | None:
    """Return whose key this is, or None when it is malformed, unknown, expired or revoked."""
    key_id = keys.key_id_of(text)
    row = store.find_api_key(connection, key_id) if key_id else None
    if row is None or not keys.matches(text, row["sha256"]):
        return None
    return live_principal(row, now)


def live_principal(row: store.Row, now: datetime) -> Principal | None:
    """Return the principal of a stored key while the key is live."""
    if row["revoked_at"] is not None or (row["expires_at"] is not None and row["expires_at"] <= now):
        return None
    return Principal(row["key_id"], row["name"], frozenset(row["scopes"]), row["last_used_at"])


def note_use(engine: Engine, who: Principal, now: datetime) -> None:
    """Note now and then that a key was used."""
    if who.last_used_at is None or now - who.last_used_at >= _USE_NOTED_EVERY:
        with writing(engine) as connection:
            store.touch_api_key(connection, who.key_id, now)


_bearer = HTTPBearer(auto_error=False, scheme_name="ApiKey", bearerFormat="gk_…", description="An API key, `gk_…`.")


def _authorise(
    request: Request,
    here: Here,
    scopes: SecurityScopes,
    given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Principal:
    challenge = {"WWW-Authenticate": 'Bearer realm="sluicewatch"'}
    if given is None:
        raise Problem("unauthenticated", "Send an API key: `Authorization: Bearer gk_…`.", headers=challenge)
    now = here.wall_clock()
    with here.engine.connect() as connection:
        who = find_principal(connection, given.credentials, now)
    if who is None:
        raise Problem("unauthenticated", "The key is not known, has expired or was revoked.", headers=challenge)
    if missing := sorted(set(scopes.scopes) - who.scopes):
        raise Problem("forbidden", f"Key {who.key_id} lacks the scope {', '.join(missing)}.")
    note_use(here.engine, who, now)
    _refuse_unknown_parameters(request)
    return who


def needs(scope: str) -> Any:
    """Declare the scope that a route needs; the caller becomes known to it as a `Principal`."""
    if scope not in keys.SCOPES:
        raise ValueError(f"scope: known are {', '.join(keys.SCOPES)}; got {scope!r}")
    return Security(_authorise, scopes=[scope])


def actor_of(who: Principal, request: Request) -> store.Actor:
    """The principal as the audit log names it."""
    return store.Actor(who.name, "api", request.state.request_id)


def _refuse_unknown_parameters(request: Request) -> None:
    """Refuse what the route does not declare: a filter with a typing error must not answer with everything."""
    known = _query_names(request.scope["route"].dependant)
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        allowed = f"allowed are {', '.join(sorted(known))}" if known else "none is allowed"
        errors = [FieldError(pointer=f"/query/{name}", code="unknown_parameter", message=allowed) for name in unknown]
        raise Problem("invalid", f"Unknown query parameter {', '.join(unknown)}; {allowed}.", errors=errors)


def _query_names(dependant: Any) -> set[str]:
    names = {field.alias for field in dependant.query_params if isinstance(field.field_info, Query)}
    return names.union(*(_query_names(inner) for inner in dependant.dependencies))

"""What the routes work with, given once by the composition root, and the types every router shares. No global state."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi import Path as PathParameter
from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema
from sqlalchemy.engine import Connection, Engine

from models import registry
from models.forecast import Forecaster
from models.policy import Policy
from pipeline import historian
from service.alerts import rfc3339
from service.api.problems import Problem

log = logging.getLogger(__name__)

STALE_AFTER = timedelta(hours=24)
"""A gate without a reading for this long is stale; features refuse it as long."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What people are told about one registered model; `aliases` is empty for one that is only kept."""

    version: str
    sha256: str
    created_at: datetime | None
    aliases: tuple[str, ...]
    open_at: float
    calibrated_here: bool
    budget_per_gate_year: float
    has_reference: bool


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of the house that a request may use.

    Attributes
    ----------
    clock : what time it is for gates and alerts, aware UTC; a demo runs on the time of its data
    wall_clock : what time it is for people: when keys and sessions end
    registry : the folder of registered models; their manifests are read here, and a model is loaded to explain what it said
    seal_secret : seals a webhook secret, so that the database alone does not reveal it
    check_url : returns a webhook's address as it will be called, or refuses it (`BadInput`)
    session_key : signs console sessions; made at random by whoever starts the server, never a constant
    public_url : where people reach the console; links in notifications begin with it
    bursts : folder of the raw vibration bursts, if this machine keeps any
    """

    engine: Engine
    clock: Callable[[], datetime]
    wall_clock: Callable[[], datetime]
    registry: Path
    seal_secret: Callable[[str], bytes]
    check_url: Callable[[str], str]
    session_key: bytes
    public_url: str
    bursts: Path | None = None

    def list_models(self) -> list[ModelInfo]:
        """Every registered model; none, and a line in the log, when the registry cannot be read."""
        try:
            return [_model_info(listed) for listed in registry.list_versions(self.registry) if listed.manifest]
        except registry.RegistryError as error:
            log.error("registry %s: %s", self.registry, error)
            return []

    def forecaster(self, version: str) -> Forecaster | None:
        """The forecaster of a registered model; None, and a line in the log, when it cannot be loaded."""
        try:
            return _load(self.registry, version)
        except registry.RegistryError as error:
            log.error("model %s cannot explain its forecasts: %s", version, error)
            return None

    def champion(self) -> ModelInfo | None:
        """The model that scores now, if there is one."""
        return next((model for model in self.list_models() if "champion" in model.aliases), None)


@lru_cache(maxsize=2)  # a version is never written again
def _load(folder: Path, version: str) -> Forecaster:
    return registry.load(folder, version).forecaster


def _model_info(listed: registry.Listed) -> ModelInfo:
    policy = Policy.from_dict(listed.manifest["policy"])
    created_at = listed.manifest.get("created_at")
    return ModelInfo(
        version=listed.version,
        sha256=listed.manifest["files"][registry.MODEL]["sha256"],
        created_at=datetime.fromisoformat(created_at) if created_at else None,
        aliases=listed.aliases,
        open_at=policy.open_at,
        calibrated_here=policy.calibrated_here,
        budget_per_gate_year=policy.budget_per_gate_year,
        has_reference=registry.REFERENCE in listed.manifest["files"],
    )


def context_of(request: Request) -> Context:
    """Return what `create_app` was given."""
    context: Context = request.app.state.context
    return context


Here = Annotated[Context, Depends(context_of)]

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)\Z")


def _from_text(value: object) -> object:
    if isinstance(value, datetime) or (isinstance(value, str) and _RFC3339.match(value)):
        return value
    raise ValueError("an instant is RFC 3339 text with its offset, such as 2026-11-20T08:00:00Z")


def _in_utc(value: datetime) -> datetime:
    return historian.from_ms(historian.to_ms(value))


Instant = Annotated[
    datetime,
    BeforeValidator(_from_text),
    AfterValidator(_in_utc),
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An instant to the millisecond: RFC 3339 with an offset on the way in, UTC on the way out."""

GateId = Annotated[str, PathParameter(pattern="^[A-Za-z0-9_-]{1,128}$", description="Id of a gate.")]


def require_gate(connection: Connection, gate_id: str) -> None:
    """Refuse with 404 a gate that is not known here."""
    known = historian.gates.c.gate_id
    if connection.scalar(historian.gates.select().with_only_columns(known).where(known == gate_id)) is None:
        raise Problem("not_found", f"There is no gate {gate_id!r}.")

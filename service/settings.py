"""Typed settings of the serving processes, checked once from what the command line gathered. It reads no environment.

`service.cli` is the only one that looks at flags and `SLUICEWATCH_…` variables; it hands over plain words, and gets typed
values or one clear line (`BadInput`) that names the setting, what is allowed and what came.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.errors import BadInput
from service.hold import HoldRule
from service.silence_watch import AT_LEAST, UNDECLARED
from service.webhooks.guard import PORTS, Guard, Network
from service.webhooks.standard import Vault

KEY_FILE = "sluicewatch.key"
DEFAULT_FOLDER = Path(".sluicewatch")
HOUR = timedelta(hours=1)


class Settings(BaseModel):
    """What `score`, `deliver` and `serve` need to know; every field has the default of its flag.

    Attributes
    ----------
    clock : ``wall`` scores by the time of day; ``data`` by the newest event time, for a replay or a demo
    grace_s : how long after midnight a day is scored, so that late readings may come in
    backlog_days : a first run, or one after a long pause, goes back no further
    keep_readings_days : raw readings older than this are forgotten; 0 keeps them for ever
    silent_after_h : a gate is silent after so many hours without a reading, or later; by the data's clock, a day
    hold_share, hold_gates : a day on which more gates than both open cases puts the model on hold (`service.hold`)
    webhook_allow_cidrs : networks of on-premises receivers, comma separated
    webhook_ports : ports a receiver may have; with `webhook_allow_loopback` any
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    database: str = "sqlite:///.sluicewatch/sluicewatch.sqlite"
    registry: Path = DEFAULT_FOLDER / "registry"
    bursts: Path = DEFAULT_FOLDER / "bursts"
    public_url: str = "http://127.0.0.1:8000"
    clock: Literal["wall", "data"] = "wall"
    grace_s: float = Field(default=900.0, ge=0, le=86_400)
    backlog_days: int = Field(default=60, ge=1, le=3_660)
    keep_readings_days: int = Field(default=0, ge=0, le=36_500)
    silent_after_h: float = Field(default=AT_LEAST / HOUR, ge=0.1, le=24)
    hold_share: float = Field(default=HoldRule().share, gt=0, le=1)
    hold_gates: int = Field(default=HoldRule().gates, ge=1)
    secret_key: str | None = Field(default=None, repr=False)
    secret_key_file: Path | None = None
    webhook_allow_cidrs: tuple[Network, ...] = ()
    webhook_allow_loopback: bool = False
    webhook_allow_http: bool = False
    webhook_ports: tuple[int, ...] = PORTS

    @classmethod
    def gather(cls, given: Mapping[str, Any]) -> Self:
        """Check what was given; what is None or empty keeps its default.

        Raises
        ------
        BadInput
            The first setting that cannot be used.
        """
        try:
            return cls.model_validate({name: value for name, value in given.items() if value is not None and value != ""})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"][:1])
            came = "" if name.startswith("secret") else f"; got {first['input']!r}"
            raise BadInput(f"{name}: {first['msg'].removeprefix('Value error, ')}{came}") from None

    @field_validator("public_url")
    @classmethod
    def _web_address(cls, text: str) -> str:
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("allowed is the http(s) address under which people reach the console")
        return text.rstrip("/")

    @field_validator("webhook_allow_cidrs", mode="before")
    @classmethod
    def _networks(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        networks = []
        for word in _words(given):
            try:
                networks.append(ipaddress.ip_network(word))
            except ValueError:
                raise ValueError(f"allowed are networks such as 10.1.0.0/16, comma separated; {word!r} is none") from None
        return tuple(networks)

    @field_validator("webhook_ports", mode="before")
    @classmethod
    def _ports(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        ports = [int(word) if word.isdigit() else 0 for word in _words(given)]
        if not all(0 < port < 65_536 for port in ports):
            raise ValueError("allowed are port numbers, comma separated")
        return tuple(ports)

    @property
    def guard(self) -> Guard:
        """Where webhooks may go under these settings."""
        return Guard(
            allow_cidrs=self.webhook_allow_cidrs,
            allow_loopback=self.webhook_allow_loopback,
            allow_http=self.webhook_allow_http,
            ports=() if self.webhook_allow_loopback else self.webhook_ports,
        )

    @property
    def hold_rule(self) -> HoldRule:
        """From when on cases are too many to be told of before a person has looked."""
        return HoldRule(self.hold_share, self.hold_gates)

    @property
    def silent_after(self) -> timedelta:
        """`silent_after_h`; a replay may bring the gates' hours one gate after the other."""
        return self.silent_after_h * HOUR if self.clock == "wall" else UNDECLARED

    @property
    def keep_readings(self) -> timedelta | None:
        """`keep_readings_days`; None is for ever."""
        return timedelta(days=self.keep_readings_days) if self.keep_readings_days else None

    @property
    def grace(self) -> timedelta:
        """`grace_s`, where days are scored by the time of day; a replay has no late readings to wait for."""
        return timedelta(seconds=self.grace_s) if self.clock == "wall" else timedelta(0)

    def vault(self) -> Vault:
        """The vault of webhook secrets: with the key that was given, else the key file's, which is made on first use.

        Raises
        ------
        BadInput
            The key is none, or its file cannot be read or made.
        """
        if self.secret_key is not None:
            return Vault(self.secret_key.encode())
        return Vault(read_or_make_key(self.secret_key_file or key_file_beside(self.database)))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def key_file_beside(database: str) -> Path:
    """Where the key lies unless told otherwise: beside a SQLite file, else in ``.sluicewatch``."""
    if database.startswith("sqlite:///"):
        return Path(database.removeprefix("sqlite:///")).parent / KEY_FILE
    return DEFAULT_FOLDER / KEY_FILE


def read_or_make_key(path: Path) -> bytes:
    """The key in a file that only its owner may read; of several processes that start at once, one makes it.

    Raises
    ------
    BadInput
        The file cannot be made or read, or others may read it.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _make_key(path)
        if path.stat().st_mode & 0o077:
            raise BadInput(f"secret key: {path} may be read by others; allowed is mode 0600 (chmod 600 {path})")
        return path.read_bytes().strip()
    except OSError as error:
        raise BadInput(f"secret key: cannot use the file {path}; {error.strerror}") from None


def _make_key(path: Path) -> None:
    # written whole under a name of its own and then linked, so that nobody reads half a key and the first one wins
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(Vault.new_key())
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first; its key is as good
    finally:
        draft.unlink()

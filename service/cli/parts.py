"""What the commands share: flags, the clock, the database, signals and progress bars."""

from __future__ import annotations

import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.errors import BadInput

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from pipeline.adapters.mapping import DeviceMap


Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_HOME = Path(".sluicewatch")


def option(name: str, *other_names: str, **attributes: Any) -> Callable[[Command], Command]:
    """A flag that can also be given as environment variable: ``--health-port`` is ``SLUICEWATCH_HEALTH_PORT``."""
    variable = "SLUICEWATCH_" + name.removeprefix("--").partition("/")[0].replace("-", "_").upper()
    return click.option(name, *other_names, envvar=variable, show_envvar=True, **attributes)


def utc_day(_context: click.Context, parameter: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
    except ValueError:
        raise BadInput(f"{parameter.opts[0]}: a day is written like 2026-03-01; got {text!r}") from None


database_option = option(
    "--database",
    default=f"sqlite:///{DEFAULT_HOME}/sluicewatch.sqlite",
    show_default=True,
    help="sqlite:///FILE or postgresql://USER@HOST/NAME.",
)
registry_option = option(
    "--registry",
    type=click.Path(path_type=Path),
    default=DEFAULT_HOME / "registry",
    show_default=True,
    help="Folder of the trained models.",
)
mqtt_option = option("--mqtt", default="mqtt://127.0.0.1:1883", show_default=True, help="mqtt://[USER:PASSWORD@]HOST:PORT")
mapping_option = option(
    "--mapping",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="Which foreign devices are which gates (docs/guides/mapping.md).",
)
sparkplug_rebirth_option = option(
    "--sparkplug-rebirth", is_flag=True, help="Ask Sparkplug's edge nodes for their births when we miss them."
)
keep_readings_option = option(
    "--keep-readings-days",
    type=click.IntRange(0, 36_500),
    default=0,
    show_default=True,
    help="Forget raw readings that are older; operations and forecasts stay. 0: keep all.",
)
allow_discovery_option = option(
    "--allow-discovery", is_flag=True, help="Let devices declare their channels, and gates nobody knows, by themselves."
)
most_a_minute_option = option(
    "--most-a-minute",
    type=click.IntRange(0, 1_000_000),
    default=0,
    show_default=True,
    help="Readings taken of one component in one minute of its own time: a device gone mad is refused the rest. 0: any number.",
)
health_option = option(
    "--health-port", type=click.IntRange(0, 65535), default=None, help="Serve /livez, /readyz and /metrics here."
)
bursts_option = option(
    "--bursts",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_HOME / "bursts",
    show_default=True,
    help="Folder of the raw vibration bursts.",
)
clock_option = option(
    "--clock",
    type=click.Choice(["wall", "data"]),
    default="wall",
    show_default=True,
    help="What counts as now: this machine's clock, or the newest reading (replays and demos).",
)
public_url_option = option(
    "--public-url", default="http://127.0.0.1:8000", show_default=True, help="Where people reach the console."
)
secret_key_option = option("--secret-key", default=None, help="Seals webhook secrets; else a key file beside the database.")


def receiver_options(command: Command) -> Command:
    """Where webhooks may go beyond the public internet over https."""
    for decorate in (
        option("--webhook-allow-loopback", is_flag=True, help="Allow receivers on this machine, on any port."),
        option("--webhook-allow-http", is_flag=True, help="Allow receivers without TLS."),
        option("--webhook-allow-cidrs", default=None, help="Allow these private networks, e.g. 10.1.0.0/16, comma separated."),
    ):
        command = decorate(command)
    return command


def tls_options(command: Command) -> Command:
    """Whom we trust and who we are, with mqtts://; named as in `pipeline.subscription.IngestSettings`."""
    file = click.Path(exists=True, dir_okay=False)
    for decorate in (
        option("--mqtt-key", "key_file", type=file, default=None, help="The key of that certificate."),
        option("--mqtt-certificate", "certificate_file", type=file, default=None, help="Our own certificate for mqtts://."),
        option("--mqtt-ca", "ca_file", type=file, default=None, help="Certificate authority for mqtts://."),
    ):
        command = decorate(command)
    return command


def wall() -> datetime:
    return datetime.now(UTC)


def clock(kind: str, engine: Engine) -> Callable[[], datetime]:
    """The wall clock, or the newest reading in the historian (the wall clock before the first one)."""
    if kind == "wall":
        return wall
    from pipeline import historian

    def newest() -> datetime:
        with engine.connect() as connection:
            return historian.data_clock(connection) or wall()

    return newest


def refuse_taken(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadInput(f"port: cannot listen on {host}:{port}; {error.strerror}") from None


def open_database(database: str, *, migrated: bool = True) -> Engine:
    """Open the database; the default file's folder is made when it is missing."""
    import sqlalchemy as sa

    from pipeline import historian
    from service import store

    if database.startswith(f"sqlite:///{DEFAULT_HOME}/"):
        DEFAULT_HOME.mkdir(exist_ok=True)
    engine = historian.connect(database)
    try:
        if migrated:
            store.check_schema(engine)
        else:
            engine.connect().close()
    except sa.exc.OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise BadInput(f"database: {engine.url.render_as_string()} cannot be opened; {reason}") from None
    return engine


def load_mapping(file: Path | None, engine: Engine) -> DeviceMap:
    """Read the mapping file, if there is one, and check it against the registered gates."""
    import sqlalchemy as sa

    from pipeline import historian

    if file is None:
        return read_mapping_file(None, None)
    with engine.connect() as connection:
        return read_mapping_file(file, set(connection.scalars(sa.select(historian.gates.c.gate_id))))


def read_mapping_file(file: Path | None, gate_ids: set[str] | None) -> DeviceMap:
    """Read the mapping file, if there is one, and check it against the gates, if they are known."""
    from pipeline.adapters.mapping import DeviceMap, read_mapping

    if file is None:
        return DeviceMap()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"mapping: {file} cannot be read; {error}") from None
    return read_mapping(text, gate_ids)


def actor() -> Any:
    from service import store

    return store.Actor(os.environ.get("USER", "") or "operator", "cli")


def make_folder(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{file.parent}: {error.strerror}") from None


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set, so that a process ends in order."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


@contextmanager
def health(port: int | None, *, live: Callable[[], list[str]], ready: Callable[[], list[str]]) -> Iterator[None]:
    if port is None:
        yield
        return
    from pipeline.health import HealthServer

    with HealthServer(port, live=live, ready=ready):
        yield


@contextmanager
def counted_progress(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar for work that counts its parts; None where nobody watches."""
    with staged_progress() as staged:
        yield None if staged is None else functools.partial(staged, title)


@contextmanager
def staged_progress() -> Iterator[Callable[[str, int, int], None] | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, of: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=of)
            bar.update(tasks[stage], completed=done, total=of)

        yield show

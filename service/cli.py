"""The command `sluicewatch`: reads settings, opens what is real, asks what time it is, and wires the parts together.

Everything heavy is imported inside the command that needs it, so that ``--help`` answers at once. What a person got wrong
ends with one clear line and exit code 2.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.errors import BadInput, SluicewatchError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_HOME = Path(".sluicewatch")


def option(name: str, **attributes: Any) -> Callable[[Command], Command]:
    """A flag that can also be given as environment variable: ``--health-port`` is ``SLUICEWATCH_HEALTH_PORT``."""
    variable = "SLUICEWATCH_" + name.removeprefix("--").partition("/")[0].replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, **attributes)


def _utc_day(_context: click.Context, parameter: click.Parameter, text: str | None) -> datetime | None:
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
health_option = option(
    "--health-port", type=click.IntRange(0, 65535), default=None, help="Serve /livez, /readyz and /metrics here."
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


class _Group(click.Group):
    """Turns what went wrong on purpose into one line: exit code 2 for bad input, 1 for the rest."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SluicewatchError as error:
            click.echo(f"sluicewatch: {error}", err=True)
            ctx.exit(2 if isinstance(error, BadInput) else 1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="sluicewatch")
@option("--log-level", default="INFO", show_default=True, type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), help="")
def main(log_level: str) -> None:
    """Predictive maintenance for water gates: from MQTT readings to a believable warning one to two weeks ahead."""
    logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for talkative in ("httpx", "httpcore", "alembic", "uvicorn.access"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads of scikit-learn on a busy machine cost a thousand times


# --- the whole way ----------------------------------------------------------------------------------------------------


@main.command()
@click.option("--seed", type=int, default=7, show_default=True, help="Which simulated basin.")
@click.option("--history-days", type=click.IntRange(45, 365), default=45, show_default=True, help="Days replayed at first.")
@click.option("--live-days", type=click.IntRange(1, 365), default=30, show_default=True, help="Days shown after that.")
@click.option("--seconds-per-day", type=click.FloatRange(0.5, 86400), default=4.0, show_default=True, help="Pace when live.")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Port of console and API; a free one if not given.")
@click.option("--exit-when-delivered", is_flag=True, help="End at the first true webhook, with a JSON summary; for scripts.")
@click.option("--pure-python-broker", is_flag=True, help="Use amqtt even where Mosquitto is installed.")
def demo(**settings: Any) -> None:
    """Run a simulated basin all the way to signed webhooks, and compare the alerts with the truth.

    \b
    sluicewatch demo
    sluicewatch demo --exit-when-delivered
    """
    from rich.console import Console

    from service.demo import Settings, run_demo

    try:
        run_demo(Settings(**settings), Console(stderr=settings["exit_when_delivered"], soft_wrap=True, highlight=False))
    except KeyboardInterrupt:
        click.echo("\nended; every process of the demo was stopped")


@main.command()
@database_option
@registry_option
@mqtt_option
@option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port of console and API.")
def up(database: str, registry: Path, mqtt: str, port: int) -> None:
    """Run ingest, score, deliver and serve together, on a database brought up to date first.

    \b
    sluicewatch up --mqtt mqtt://broker:1883 --database sqlite:///gates.sqlite
    """
    from service import store
    from service.processes import Processes

    engine = _open(database, migrated=False)
    store.migrate(engine)
    engine.dispose()
    environment = {"SLUICEWATCH_DATABASE": database, "SLUICEWATCH_REGISTRY": str(registry), "SLUICEWATCH_MQTT": mqtt}
    stop = _stop_on_signals()
    with Processes() as processes:
        for name in ("ingest", "score", "deliver"):
            processes.start(name, environment=environment)
        processes.start("serve", "--port", str(port), environment=environment)
        while not stop.wait(1.0):
            processes.check()


@main.command()
@database_option
def migrate(database: str) -> None:
    """Bring the database to this version's tables; does nothing when it is.

    \b
    sluicewatch migrate --database sqlite:///gates.sqlite
    """
    from service import store

    store.migrate(_open(database, migrated=False))


@main.command()
@mqtt_option
@database_option
@option("--client-id", default="sluicewatch-ingest", show_default=True, help="The broker keeps our session by it.")
@option("--mqtt-version", type=click.Choice(["3.1.1", "5"]), default="3.1.1", show_default=True, help="Protocol version.")
@option("--mqtt-ca", type=click.Path(exists=True, dir_okay=False), default=None, help="Certificate authority for mqtts://.")
@health_option
def ingest(mqtt: str, database: str, client_id: str, mqtt_version: Any, mqtt_ca: str | None, health_port: int | None) -> None:
    """Receive readings over MQTT, store them, then acknowledge them.

    \b
    sluicewatch ingest --mqtt mqtt://broker:1883 --database sqlite:///gates.sqlite
    """
    from pipeline.ingest import IngestState, run_ingest
    from pipeline.subscription import IngestSettings

    state = IngestState()
    settings = IngestSettings(mqtt_url=mqtt, client_id=client_id, version=mqtt_version, ca_file=mqtt_ca)
    stop = _stop_on_signals()
    with _health(health_port, live=state.stuck, ready=state.faults):
        run_ingest(_open(database), settings, stop=stop, clock=_wall, state=state)


@main.command()
@database_option
@registry_option
@clock_option
@public_url_option
@option("--grace-s", type=float, default=900.0, show_default=True, help="Wait after midnight for late readings (wall clock).")
@option("--backlog-days", type=int, default=60, show_default=True, help="A first run goes back no further.")
@option("--every-s", type=click.FloatRange(0.05, 3600), default=60.0, show_default=True, help="How often to look for a day.")
@health_option
def score(health_port: int | None, every_s: float, **given: Any) -> None:
    """Forecast every gate once a day and open, keep or close its cases.

    \b
    sluicewatch score --database sqlite:///gates.sqlite --registry registry/
    """
    from datetime import timedelta

    from models import registry as models
    from service.scoring import ScoringState, run_scoring
    from service.settings import Settings

    settings = Settings.gather(given)
    engine = _open(settings.database)
    models.seed(settings.registry)
    state = ScoringState()
    stop = _stop_on_signals()
    with _health(health_port, live=state.stuck, ready=state.faults):
        run_scoring(
            engine,
            settings.registry,
            clock=_clock(settings.clock, engine),
            stop=stop,
            every_s=every_s,
            grace=settings.grace,
            backlog=timedelta(days=settings.backlog_days),
            public_url=settings.public_url,
            state=state,
        )


@main.command()
@database_option
@secret_key_option
@receiver_options
@health_option
def deliver(health_port: int | None, **given: Any) -> None:
    """Send what is due in the outbox to its webhooks, and retry for three days what did not arrive.

    \b
    sluicewatch deliver --database sqlite:///gates.sqlite --webhook-allow-cidrs 10.1.0.0/16
    """
    import asyncio
    import random

    from service.outbox import DeliveryState
    from service.outbox import deliver as run
    from service.settings import Settings
    from service.webhooks.guard import guarded_client

    settings = Settings.gather(given)
    engine, vault = _open(settings.database), settings.vault()
    state, stop = DeliveryState(), _stop_on_signals()

    async def until_stopped() -> None:
        async with guarded_client(settings.guard) as client:
            await run(engine, client, clock=_wall, rng=random.Random(), vault=vault, stop=stop, state=state)

    with _health(health_port, live=state.stuck, ready=state.faults):
        asyncio.run(until_stopped())


@main.command()
@database_option
@registry_option
@clock_option
@public_url_option
@secret_key_option
@receiver_options
@option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 behind a TLS proxy.")
@option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port of console and API.")
def serve(host: str, port: int, **given: Any) -> None:
    """Serve console and API.

    \b
    sluicewatch serve --database sqlite:///gates.sqlite --port 8000
    """
    import secrets

    import uvicorn

    from service.api.app import create_app
    from service.settings import Settings
    from service.webhooks.guard import check_url

    settings = Settings.gather(given)
    engine, vault = _open(settings.database), settings.vault()
    app = create_app(
        engine,
        clock=_clock(settings.clock, engine),
        registry=settings.registry,
        seal_secret=vault.seal,
        check_url=lambda url: check_url(url, settings.guard),
        session_key=secrets.token_bytes(32),
        public_url=settings.public_url,
    )
    _refuse_taken(host, port)
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)


# --- simulated fleets ---------------------------------------------------------------------------------------------------


@main.command()
@click.option("--to", type=click.Path(path_type=Path), default=None, help="Write a dataset folder here.")
@click.option("--mqtt", default=None, help="Publish to this broker instead, as the gates' gateways would.")
@click.option("--gates", type=click.IntRange(1, 10_000), default=24, show_default=True, help="How many gates.")
@click.option("--days", type=click.IntRange(1, 10_000), default=365, show_default=True, help="How many days.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same fleet, byte for byte.")
@click.option("--start", callback=_utc_day, default="2024-01-01", show_default=True, help="First day.")
@click.option("--hazard-scale", type=click.FloatRange(0, 100), default=1.0, show_default=True, help="How often wear starts.")
@click.option(
    "--heartbeat-min", type=click.IntRange(1, 720), default=15, show_default=True, help="Minutes between readings at rest."
)
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the gates.")
@click.option(
    "--speed",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Event time against real time; 0: as fast as it goes.",
)
def simulate(
    to: Path | None,
    mqtt: str | None,
    gates: int,
    days: int,
    seed: int,
    start: datetime,
    hazard_scale: float,
    heartbeat_min: int,
    jobs: int,
    speed: float,
) -> None:
    """Simulate gates that wear out: as a dataset folder, or as sensors that publish.

    \b
    sluicewatch simulate --to fleet/ --gates 24 --days 365 --seed 1
    sluicewatch simulate --mqtt mqtt://127.0.0.1:1883 --gates 3 --days 1 --speed 60
    """
    from pipeline import simulator

    if (to is None) == (mqtt is None):
        raise BadInput("simulate: give either --to FOLDER or --mqtt URL")
    drawn: dict[str, Any] = {
        "gates": gates,
        "days": days,
        "seed": seed,
        "start": start.date(),
        "hazard_scale": hazard_scale,
        "heartbeat_min": heartbeat_min,
    }
    if to is not None:
        with _progress("simulate") as progress:
            simulator.write_dataset(to, jobs=jobs, progress=progress, **drawn)
        click.echo(f"{gates} gates, {days} days written to {to}; see {to / 'data_card.md'}")
        return
    assert mqtt is not None
    _publish(simulator.make_fleet(**drawn), mqtt, speed)


def _publish(fleet: Any, mqtt: str, speed: float) -> None:
    from datetime import timedelta

    from pipeline import simulator
    from pipeline.simulator.publish import FleetPublisher, fleet_messages

    readings = {gate_id: simulator.simulate_gate(fleet, gate_id).readings for gate_id in fleet.gate_ids}
    stop = _stop_on_signals()
    with FleetPublisher(fleet_messages(fleet, readings, live_from=fleet.started_at)) as publisher:
        publisher.connect(mqtt)
        begun = time.monotonic()
        while publisher.next_event is not None and not stop.wait(0.2 if speed else 0.0):
            passed = timedelta(seconds=(time.monotonic() - begun) * speed) if speed else fleet.ends_at - fleet.started_at
            publisher.publish_until(fleet.started_at + passed, timeout=1.0)
        publisher.wait_acknowledged(10.0)
        click.echo(f"published {publisher.published} messages, acknowledged {publisher.acknowledged}")


@main.command(name="import")
@click.argument("folder", type=click.Path(path_type=Path))
@database_option
def import_(folder: Path, database: str) -> None:
    """Bring a dataset folder into the historian: fleet, maintenance and readings. Doing it twice changes nothing.

    \b
    sluicewatch import fleet/ --database sqlite:///gates.sqlite
    """
    from pipeline import historian, transfer
    from pipeline.dataset import open_dataset

    dataset = open_dataset(folder, need_readings=False)
    engine = _open(database)
    with historian.writing(engine) as connection:
        transfer.register_fleet(connection, dataset, _wall())
    with _progress("import") as progress:
        rows = transfer.import_readings(engine, dataset, progress)
    click.echo(f"{len(dataset.gate_ids)} gates, {rows} readings imported")


# --- data science -------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@registry_option
@click.option("--name", required=True, help="Name of the new version.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same data, seed and versions: same predictions.")
def train(folder: Path, registry: Path, name: str, seed: int) -> None:
    """Train a model on a dataset folder, judge it on gates it has not seen, and register it.

    \b
    sluicewatch train sample_data/fleet --registry registry/ --name mine-1
    """
    from models.train import train as fit
    from pipeline.dataset import open_dataset

    with _staged_progress() as progress:
        candidate = fit(open_dataset(folder), registry_dir=registry, name=name, seed=seed, progress=progress)
    click.echo(candidate.table)
    click.echo(
        f"registered as {candidate.version} in {registry}; `sluicewatch models promote {candidate.version}` puts it to work"
    )


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@registry_option
@click.option("--model", default="champion", show_default=True, help="Version or alias.")
@click.option("--from", "from_", callback=_utc_day, required=True, help="First day.")
@click.option("--to", callback=_utc_day, required=True, help="Last day.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Forecast file to write (Parquet).")
def backtest(folder: Path, registry: Path, model: str, from_: datetime, to: datetime, out: Path) -> None:
    """Forecast every gate on every day of a dataset, as the live service would have, and write a forecast file.

    \b
    sluicewatch backtest fleet/ --model champion --from 2024-03-01 --to 2024-06-30 --out forecasts.parquet
    """
    from models import registry as models
    from models.train import backtest as run
    from models.train import write_forecasts
    from pipeline.dataset import open_dataset

    dataset = open_dataset(folder)
    if model == "champion":
        models.seed(registry)
    loaded = models.load(registry, model)
    with _staged_progress() as progress:
        forecasts = run(dataset, loaded, from_, to, progress=progress)
    _make_folder(out)
    write_forecasts(forecasts, out)
    click.echo(f"{len(forecasts)} forecasts of {forecasts['gate_id'].nunique()} gates by {loaded.version} written to {out}")


@main.command()
@click.option("--dataset", "folder", type=click.Path(path_type=Path), required=True, help="Dataset folder.")
@click.option("--forecasts", type=click.Path(path_type=Path), required=True, help="Forecast file, ours or another's.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Write the figures here (JSON).")
def evaluate(folder: Path, forecasts: Path, report: Path | None) -> None:
    """Judge a forecast file against what happened, beside what operators use today.

    \b
    sluicewatch evaluate --dataset fleet/ --forecasts forecasts.parquet --report report.json
    """
    import json

    from models.evaluate import table
    from models.train import judge, read_forecasts
    from pipeline.dataset import open_dataset

    dataset, file = open_dataset(folder), read_forecasts(forecasts)
    with _staged_progress() as progress:
        reports = judge(dataset, file, progress=progress)
    click.echo(table(reports))
    if report is not None:
        _make_folder(report)
        report.write_text(json.dumps(reports, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@main.group(name="models")
def models_group() -> None:
    """List, show, verify, promote and roll back trained models."""


@models_group.command(name="list")
@registry_option
def models_list(registry: Path) -> None:
    """List the versions of a registry.

    \b
    sluicewatch models list --registry registry/
    """
    from models import registry as models

    found = models.list_versions(registry)
    for listed in found:
        figures = listed.manifest.get("figures", {})
        ap = figures.get("ap_14d", {}).get("value")
        told = "no figures" if ap is None else f"AP at 14 d {ap:.3f} on {listed.manifest['training']['source']}"
        click.echo(f"{listed.version}  {','.join(listed.aliases) or '-'}  {told}")
    if not found:
        click.echo(f"no models in {registry}")


@models_group.command(name="show")
@click.argument("version")
@registry_option
def models_show(version: str, registry: Path) -> None:
    """Print the model card of a version or alias.

    \b
    sluicewatch models show champion
    """
    from models import registry as models

    models.load(registry, version)
    click.echo((registry / models.resolve(registry, version) / models.CARD).read_text(encoding="utf-8"))


@models_group.command(name="verify")
@click.argument("version")
@registry_option
def models_verify(version: str, registry: Path) -> None:
    """Check every file of a version against its manifest and its golden forecasts.

    \b
    sluicewatch models verify champion
    """
    from models import registry as models

    click.echo(f"{models.load(registry, version).version} is whole")


@models_group.command(name="promote")
@click.argument("version")
@registry_option
def models_promote(version: str, registry: Path) -> None:
    """Make a version the champion; the champion so far becomes `previous`.

    \b
    sluicewatch models promote mine-1
    """
    from models import registry as models

    click.echo(f"{models.promote(registry, version).version} is the champion")


@models_group.command(name="rollback")
@registry_option
def models_rollback(registry: Path) -> None:
    """Go back to the previous champion.

    \b
    sluicewatch models rollback
    """
    from models import registry as models

    click.echo(f"{models.rollback(registry).version} is the champion again")


# --- people and what could not be used --------------------------------------------------------------------------------------


@main.group(name="keys")
def keys_group() -> None:
    """Create, list and revoke API keys."""


@keys_group.command(name="create")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, help="What the key may do; several allowed. Default: everything.")
@database_option
def keys_create(name: str, scopes: tuple[str, ...], database: str) -> None:
    """Make a key and print it once.

    \b
    sluicewatch keys create "duty room" --scope alerts:read --scope alerts:write
    """
    from service.api import auth, keys

    made = auth.create_key(_open(database), name=name, scopes=scopes or tuple(keys.SCOPES), at=_wall(), actor=_actor())
    click.echo(made.text)


@keys_group.command(name="list")
@database_option
def keys_list(database: str) -> None:
    """List the keys, without their secret part.

    \b
    sluicewatch keys list
    """
    from service import store

    with _open(database).connect() as connection:
        for row in store.list_api_keys(connection):
            state = "revoked" if row["revoked_at"] else "live"
            click.echo(f"{row['key_id']}  {state}  {row['name']}  {','.join(row['scopes'])}")


@keys_group.command(name="revoke")
@click.argument("key_id")
@database_option
def keys_revoke(key_id: str, database: str) -> None:
    """Revoke a key at once.

    \b
    sluicewatch keys revoke 4fZk81Qa
    """
    from pipeline import historian
    from service import store

    with historian.writing(_open(database)) as connection:
        store.revoke_api_key(connection, key_id, at=_wall(), actor=_actor())
    click.echo(f"{key_id} is revoked")


@main.group(name="quarantine")
def quarantine_group() -> None:
    """What arrived and could not be used."""


@quarantine_group.command(name="list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="The newest so many.")
@database_option
def quarantine_list(limit: int, database: str) -> None:
    """Print the newest refused messages with their reason.

    \b
    sluicewatch quarantine list --limit 5
    """
    import sqlalchemy as sa

    from pipeline import historian

    query = sa.select(historian.quarantine).order_by(historian.quarantine.c.quarantine_id.desc()).limit(limit)
    with _open(database).connect() as connection:
        for row in connection.execute(query):
            click.echo(f"{row.received_at:%Y-%m-%d %H:%M:%S}  {row.reason}  {row.topic}  {row.detail}")


# --- what is real ---------------------------------------------------------------------------------------------------------


def _wall() -> datetime:
    return datetime.now(UTC)


def _clock(kind: str, engine: Engine) -> Callable[[], datetime]:
    """The wall clock, or the newest reading in the historian (the wall clock before the first one)."""
    if kind == "wall":
        return _wall
    from pipeline import historian

    def newest() -> datetime:
        with engine.connect() as connection:
            return historian.data_clock(connection) or _wall()

    return newest


def _refuse_taken(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadInput(f"port: cannot listen on {host}:{port}; {error.strerror}") from None


def _open(database: str, *, migrated: bool = True) -> Engine:
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


def _actor() -> Any:
    from service import store

    return store.Actor(os.environ.get("USER", "") or "operator", "cli")


def _make_folder(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{file.parent}: {error.strerror}") from None


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set, so that a process ends in order."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


@contextmanager
def _health(port: int | None, *, live: Callable[[], list[str]], ready: Callable[[], list[str]]) -> Iterator[None]:
    if port is None:
        yield
        return
    from pipeline.health import HealthServer

    with HealthServer(port, live=live, ready=ready):
        yield


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar for work that counts its parts; None where nobody watches."""
    with _staged_progress() as staged:
        yield None if staged is None else functools.partial(staged, title)


@contextmanager
def _staged_progress() -> Iterator[Callable[[str, int, int], None] | None]:
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


if __name__ == "__main__":
    main()

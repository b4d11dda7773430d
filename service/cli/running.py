"""Commands that run the service: `demo`, `up`, `migrate`, `ingest`, `score`, `deliver`, `serve`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

from pipeline.errors import BadInput
from service.cli.parts import (
    allow_discovery_option,
    bursts_option,
    clock,
    clock_option,
    database_option,
    health,
    health_option,
    keep_readings_option,
    load_mapping,
    mapping_option,
    most_a_minute_option,
    mqtt_option,
    open_database,
    option,
    public_url_option,
    receiver_options,
    refuse_taken,
    registry_option,
    secret_key_option,
    sparkplug_rebirth_option,
    stop_on_signals,
    tls_options,
    wall,
)


@click.command()
@option("--seed", type=int, default=9, show_default=True, help="Which simulated basin.")
@option("--history-days", type=click.IntRange(45, 365), default=45, show_default=True, help="Days replayed at first.")
@option("--live-days", type=click.IntRange(1, 365), default=30, show_default=True, help="Days shown after that.")
@option("--seconds-per-day", type=click.FloatRange(0.5, 86400), default=4.0, show_default=True, help="Pace when live.")
@option("--port", type=click.IntRange(1, 65535), default=None, help="Port of console and API; a free one if not given.")
@option("--exit-when-delivered", is_flag=True, help="End at the first true webhook, with a JSON summary; for scripts.")
@option("--pure-python-broker", is_flag=True, help="Use amqtt even where Mosquitto is installed.")
def demo(**settings: Any) -> None:
    """Run a simulated basin all the way to signed webhooks, and compare the alerts with the truth.

    \b
    sluicewatch demo
    sluicewatch demo --exit-when-delivered
    """
    from rich.console import Console

    from service.demo import Settings, run_demo

    for number in (signal.SIGINT, signal.SIGTERM):  # also where a script started us with Ctrl-C switched off
        signal.signal(number, signal.default_int_handler)
    if settings["port"] is not None:
        refuse_taken("127.0.0.1", settings["port"])
    try:
        run_demo(Settings(**settings), Console(stderr=settings["exit_when_delivered"], soft_wrap=True, highlight=False))
    except KeyboardInterrupt:
        click.echo("\nended; every process of the demo was stopped")


@click.command()
@database_option
@registry_option
@mqtt_option
@mapping_option
@sparkplug_rebirth_option
@allow_discovery_option
@most_a_minute_option
@tls_options
@public_url_option
@secret_key_option
@receiver_options
@bursts_option
@keep_readings_option
@option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 behind a TLS proxy.")
@option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port of console and API.")
def up(
    database: str,
    mqtt: str,
    mapping: Path | None,
    sparkplug_rebirth: bool,
    allow_discovery: bool,
    most_a_minute: int,
    ca_file: str | None,
    certificate_file: str | None,
    key_file: str | None,
    **given: Any,
) -> None:
    """Run ingest, score, deliver and serve together, on a database brought up to date first.

    \b
    sluicewatch up --mqtt mqtt://broker:1883 --database sqlite:///gates.sqlite
    """
    from service import store
    from service.processes import Processes
    from service.settings import Settings

    Settings.gather({"database": database, **{name: value for name, value in given.items() if name not in ("host", "port")}})
    engine = open_database(database, migrated=False)
    store.migrate(engine)
    load_mapping(mapping, engine)  # refused here, before anything runs
    engine.dispose()
    refuse_taken(given["host"], given["port"])
    # every flag of the processes is an environment variable, too
    flags = {"database": database, "mqtt": mqtt, "mapping": mapping, "sparkplug_rebirth": sparkplug_rebirth, **given}
    flags |= {"allow_discovery": allow_discovery, "most_a_minute": most_a_minute}
    flags |= {"mqtt_ca": ca_file, "mqtt_certificate": certificate_file, "mqtt_key": key_file}
    environment = {f"SLUICEWATCH_{name.upper()}": str(value) for name, value in flags.items() if value is not None}
    stop = stop_on_signals()
    with Processes() as processes:
        for name in ("ingest", "score", "deliver", "serve"):
            processes.start(name, environment=environment)
        click.echo(f"console and API: http://{given['host']}:{given['port']}", err=True)
        while not stop.wait(1.0):
            processes.check()


@click.command()
@database_option
def migrate(database: str) -> None:
    """Bring the database to this version's tables; does nothing when it is.

    \b
    sluicewatch migrate --database sqlite:///gates.sqlite
    """
    from service import store

    store.migrate(open_database(database, migrated=False))


@click.command()
@mqtt_option
@database_option
@mapping_option
@sparkplug_rebirth_option
@allow_discovery_option
@most_a_minute_option
@bursts_option
@option(
    "--bursts-days", type=click.IntRange(0, 36_500), default=30, show_default=True, help="How long to keep them; 0: not at all."
)
@option("--stations", default=None, help="Hear only these, with commas between; for several processes on PostgreSQL.")
@option("--client-id", default="sluicewatch-ingest", show_default=True, help="The broker keeps our session by it.")
@option("--mqtt-version", type=click.Choice(["3.1.1", "5"]), default="3.1.1", show_default=True, help="Protocol version.")
@tls_options
@health_option
def ingest(
    mqtt: str,
    database: str,
    mapping: Path | None,
    sparkplug_rebirth: bool,
    allow_discovery: bool,
    most_a_minute: int,
    bursts: Path,
    bursts_days: int,
    stations: str | None,
    client_id: str,
    mqtt_version: Any,
    health_port: int | None,
    **tls: Any,
) -> None:
    """Receive readings over MQTT, store them, then acknowledge them.

    \b
    sluicewatch ingest --mqtt mqtt://broker:1883 --database sqlite:///gates.sqlite
    sluicewatch ingest --mqtt mqtt://broker:1883 --mapping mapping.toml
    sluicewatch ingest --mqtt mqtt://broker:1883 --database postgresql://db/gates --stations DSH-S1,DSH-S2
    """
    from pipeline.adapters.dialects import Dialects
    from pipeline.ingest import IngestState, run_ingest
    from pipeline.shares import Share, SharesState, run_shares
    from pipeline.subscription import IngestSettings

    settings = IngestSettings(
        mqtt_url=mqtt,
        client_id=client_id,
        version=mqtt_version,
        sparkplug_rebirth=sparkplug_rebirth,
        allow_discovery=allow_discovery,
        most_a_minute=most_a_minute,
        bursts_folder=bursts if bursts_days else None,
        bursts_days=bursts_days,
        **tls,
    )
    engine = open_database(database)
    if stations is not None:
        if mapping is not None:
            raise BadInput(
                "stations: foreign dialects do not name stations; run another ingest for --mapping, without --stations"
            )
        own, shares = Share.of([word.strip() for word in stations.split(",") if word.strip()]), SharesState()
        stop = stop_on_signals()
        with health(health_port, live=shares.stuck, ready=shares.faults):
            run_shares(engine, settings, own, stop=stop, clock=wall, state=shares)
        return
    state = IngestState()
    dialects = Dialects(load_mapping(mapping, engine))
    stop = stop_on_signals()
    with health(health_port, live=state.stuck, ready=state.faults):
        run_ingest(engine, settings, stop=stop, clock=wall, state=state, dialects=dialects)


@click.command()
@database_option
@registry_option
@clock_option
@public_url_option
@option("--grace-s", type=float, default=900.0, show_default=True, help="Wait after midnight for late readings (wall clock).")
@option("--backlog-days", type=int, default=60, show_default=True, help="A first run goes back no further.")
@keep_readings_option
@option("--silent-after-h", type=float, default=1.0, show_default=True, help="A gate is silent after so many hours, or later.")
@option("--hold-share", type=float, default=0.2, show_default=True, help="More of the gates with new cases in a day: on hold.")
@option("--hold-gates", type=int, default=3, show_default=True, help="Fewer gates with new cases never put a model on hold.")
@option("--every-s", type=click.FloatRange(0.05, 3600), default=60.0, show_default=True, help="How often to look for a day.")
@option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the gates.")
@health_option
def score(health_port: int | None, every_s: float, jobs: int, **given: Any) -> None:
    """Forecast every gate once a day and open, keep or close its cases.

    \b
    sluicewatch score --database sqlite:///gates.sqlite --registry registry/
    """
    from datetime import timedelta

    from models import registry as models
    from service.scoring import ScoringState, run_scoring
    from service.settings import Settings

    settings = Settings.gather(given)
    engine = open_database(settings.database)
    models.seed(settings.registry)
    state = ScoringState()
    stop = stop_on_signals()
    with health(health_port, live=state.stuck, ready=state.faults):
        run_scoring(
            engine,
            settings.registry,
            clock=clock(settings.clock, engine),
            stop=stop,
            every_s=every_s,
            grace=settings.grace,
            backlog=timedelta(days=settings.backlog_days),
            public_url=settings.public_url,
            jobs=jobs,
            hold_rule=settings.hold_rule,
            keep_readings=settings.keep_readings,
            silent_after=settings.silent_after,
            state=state,
        )


@click.command()
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
    engine, vault = open_database(settings.database), settings.vault()
    state, stop = DeliveryState(), stop_on_signals()

    async def until_stopped() -> None:
        async with guarded_client(settings.guard) as client:
            await run(engine, client, clock=wall, rng=random.Random(), vault=vault, stop=stop, state=state)

    with health(health_port, live=state.stuck, ready=state.faults):
        asyncio.run(until_stopped())


@click.command()
@database_option
@registry_option
@clock_option
@public_url_option
@secret_key_option
@receiver_options
@bursts_option
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
    engine, vault = open_database(settings.database), settings.vault()
    app = create_app(
        engine,
        clock=clock(settings.clock, engine),
        wall_clock=wall,
        registry=settings.registry,
        seal_secret=vault.seal,
        check_url=lambda url: check_url(url, settings.guard),
        session_key=secrets.token_bytes(32),
        public_url=settings.public_url,
        bursts=settings.bursts,
    )
    refuse_taken(host, port)
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)

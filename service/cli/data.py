"""Commands that bring data: `simulate` and `import`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from pipeline.errors import BadInput
from service.cli.parts import counted_progress, database_option, open_database, option, stop_on_signals, utc_day, wall


@click.command()
@option("--to", type=click.Path(path_type=Path), default=None, help="Write a dataset folder here.")
@option("--mqtt", default=None, help="Publish to this broker instead, as the gates' gateways would.")
@option("--gates", type=click.IntRange(1, 10_000), default=24, show_default=True, help="How many gates.")
@option("--days", type=click.IntRange(1, 10_000), default=365, show_default=True, help="How many days.")
@option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same fleet, byte for byte.")
@option("--start", callback=utc_day, default="2024-01-01", show_default=True, help="First day.")
@option("--hazard-scale", type=click.FloatRange(0, 100), default=1.0, show_default=True, help="How often wear starts.")
@option("--heartbeat-min", type=click.IntRange(1, 720), default=15, show_default=True, help="Minutes between readings at rest.")
@option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the gates.")
@option(
    "--speed",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds of event time a second.",
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

    if to is None and mqtt is None:
        raise BadInput("simulate: give --to FOLDER to write a dataset, or --mqtt URL to publish")
    drawn: dict[str, Any] = {
        "gates": gates,
        "days": days,
        "seed": seed,
        "start": start.date(),
        "hazard_scale": hazard_scale,
        "heartbeat_min": heartbeat_min,
    }
    if to is not None:
        with counted_progress("simulate") as progress:
            simulator.write_dataset(to, jobs=jobs, progress=progress, **drawn)
        click.echo(f"{gates} gates, {days} days written to {to}; see {to / 'data_card.md'}")
        return
    assert mqtt is not None
    _publish(simulator.make_fleet(**drawn), mqtt, speed)


def _publish(fleet: Any, mqtt: str, speed: float) -> None:
    from pipeline import simulator
    from pipeline.simulator.publish import FleetPublisher, fleet_messages, replay

    readings = {gate_id: simulator.simulate_gate(fleet, gate_id).readings for gate_id in fleet.gate_ids}
    with FleetPublisher(fleet_messages(fleet, readings, live_from=fleet.started_at)) as publisher:
        publisher.connect(mqtt)
        replay(publisher, fleet.started_at, fleet.ends_at, speed, stop_on_signals())
        publisher.wait_acknowledged(10.0)
        click.echo(f"published {publisher.published} messages, acknowledged {publisher.acknowledged}")


@click.command(name="import")
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
    engine = open_database(database)
    with historian.writing(engine) as connection:
        transfer.register_fleet(connection, dataset, wall())
    with counted_progress("import") as progress:
        rows = transfer.import_readings(engine, dataset, progress)
    click.echo(f"{len(dataset.gate_ids)} gates, {rows} readings imported")

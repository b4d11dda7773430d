"""Commands that bring data in and out: `simulate`, `import`, `export` and `maintenance`."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.errors import BadInput
from service.cli.parts import (
    actor,
    counted_progress,
    database_option,
    make_folder,
    open_database,
    option,
    stop_on_signals,
    utc_day,
    wall,
)

if TYPE_CHECKING:
    from pipeline.simulator import Fleet


@click.group(invoke_without_command=True)
@option("--to", type=click.Path(path_type=Path), default=None, help="Write a dataset folder here.")
@option("--mqtt", default=None, help="Publish to this broker instead, as the gates' gateways would.")
@option("--gates", type=click.IntRange(1, 10_000), default=24, show_default=True, help="How many gates.")
@option("--days", type=click.IntRange(1, 10_000), default=365, show_default=True, help="How many days.")
@option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same fleet, byte for byte.")
@option("--start", callback=utc_day, default="2024-01-01", show_default=True, help="First day.")
@option("--hazard-scale", type=click.FloatRange(0, 100), default=1.0, show_default=True, help="How often wear starts.")
@option("--heartbeat-min", type=click.IntRange(1, 720), default=15, show_default=True, help="Minutes between readings at rest.")
@option("--scenario", default="", help="A world that differs; `simulate scenarios` lists them.")
@option("--inject", multiple=True, help="gate=G,mode=M,fail-at=T or gate=G,channel=C,fault=F,at=T[,until=T]; may be repeated.")
@option("--sensor-faults/--no-sensor-faults", default=True, help="Drifting, stuck, loose and silent sensors.")
@option("--preventive/--no-preventive", default=True, help="Periodic inspections.")
@option("--transport-faults/--no-transport-faults", default=True, help="Wrong clocks; readings late, repeated, out of order.")
@option("--waveforms", is_flag=True, help="Two vibration bursts an operation, too (16 KB each).")
@option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the gates.")
@option(
    "--speed",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds of event time a second.",
)
@option("--rate", type=click.FloatRange(min=0, min_open=True), default=None, help="At most so many messages a second.")
@click.pass_context
def simulate(
    context: click.Context,
    /,
    to: Path | None,
    mqtt: str | None,
    start: datetime,
    jobs: int,
    speed: float,
    rate: float | None,
    waveforms: bool,
    **drawn: Any,
) -> None:
    """Simulate gates that wear out: as a dataset folder, or as sensors that publish.

    \b
    sluicewatch simulate --to fleet/ --gates 24 --days 365 --seed 1
    sluicewatch simulate --mqtt mqtt://127.0.0.1:1883 --gates 3 --days 1 --speed 60
    sluicewatch simulate --to fleet/ --inject gate=DSH-S1-G1,mode=motor_bearing,fail-at=2024-06-01T09:00:00Z
    """
    if context.invoked_subcommand is not None:
        return
    from pipeline import simulator

    if to is None and mqtt is None:
        raise BadInput("simulate: give --to FOLDER to write a dataset, or --mqtt URL to publish")
    drawn["start"] = start.date()
    if to is not None:
        with counted_progress("simulate") as progress:
            simulator.write_dataset(to, jobs=jobs, waveforms=waveforms, progress=progress, **drawn)
        click.echo(f"{drawn['gates']} gates, {drawn['days']} days written to {to}; see {to / 'data_card.md'}")
        return
    assert mqtt is not None
    _publish(simulator.make_fleet(**drawn), mqtt, speed, rate, waveforms)


def _publish(fleet: Fleet, mqtt: str, speed: float, rate: float | None, waveforms: bool) -> None:
    from pipeline import simulator
    from pipeline.simulator.publish import FleetPublisher, fleet_messages, replay
    from pipeline.simulator.transport import through_uplinks

    readings = {gate_id: simulator.stream_readings(fleet, gate_id) for gate_id in fleet.gate_ids}
    bursts = {gate_id: simulator.stream_bursts(fleet, gate_id) for gate_id in fleet.gate_ids} if waveforms else {}
    stations = fleet_messages(fleet, readings, live_from=fleet.started_at, bursts=bursts)
    with FleetPublisher(through_uplinks(fleet, stations), messages_per_s=rate) as publisher:
        publisher.connect(mqtt)
        replay(publisher, fleet.started_at, fleet.ends_at, speed, stop_on_signals())
        publisher.wait_acknowledged(10.0)
        left = publisher.next_event
        click.echo(f"published {publisher.published} messages, acknowledged {publisher.acknowledged}")
        if left is not None:
            click.echo(f"not handed over: what was due from {left:%Y-%m-%d %H:%M} UTC on")


@simulate.command(name="scenarios")
def simulate_scenarios() -> None:
    """List the scenarios: what each changes, and what is to be expected of it.

    \b
    sluicewatch simulate scenarios
    """
    from pipeline.simulator.scenarios import SCENARIOS

    for scenario in SCENARIOS.values():
        click.echo(f"{scenario.name}\n    changes: {scenario.change}\n    expect:  {scenario.effect}")


@simulate.command(name="oracle")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--rung", type=click.Choice(["O1", "O2", "O3"]), multiple=True, default=("O1", "O2", "O3"), help="Only this one.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the gates.")
def simulate_oracle(folder: Path, rung: tuple[str, ...], jobs: int) -> None:
    """Forecast a simulated dataset from its hidden state: the ceiling for every model, as forecast files in the folder.

    O1 knows everything, O2 not how fast a fault grows, O3 only what sensors could show. `evaluate` judges the files like any.

    \b
    sluicewatch simulate oracle fleet/
    sluicewatch evaluate --dataset fleet/ --forecasts fleet/oracle-O3.parquet
    """
    from models.forecast_files import write_forecasts
    from pipeline.simulator.oracle import oracle

    for name in rung:
        with counted_progress(name) as progress:
            forecasts = oracle(folder, name, jobs=jobs, progress=progress)
        file = folder / f"oracle-{name}.parquet"
        write_forecasts(forecasts, file)
        click.echo(f"{len(forecasts)} forecasts written to {file}")


@simulate.command(name="plot")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--gate", required=True, help="Which gate.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="PNG, SVG or PDF; GATE.png unless told."
)
@click.option("--from", "from_", callback=utc_day, default=None, help="First day; the first of the record unless told.")
@click.option("--days", type=click.IntRange(1, 3660), default=365, show_default=True, help="How many days.")
def simulate_plot(folder: Path, gate: str, out: Path | None, from_: datetime | None, days: int) -> None:
    """Draw a gate's year: vibration, temperature, duty, water, maintenance, failures, and the hidden wear where it is known.

    \b
    sluicewatch simulate plot fleet/ --gate DSH-S1-G1 --out gate.png
    """
    from pipeline.simulator.plot import plot_gate

    file = Path(f"{gate}.png") if out is None else out
    make_folder(file)
    plot_gate(folder, gate, file, None if from_ is None else from_.date(), days)
    click.echo(f"{gate} drawn in {file}")


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


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@database_option
@click.option("--gates", default=None, help="Only these, with commas between.  [default: all]")
@click.option("--from", "from_", callback=utc_day, default=None, help="First day of readings.  [default: the oldest]")
@click.option("--to", callback=utc_day, default=None, help="Last day of readings and records.  [default: the newest]")
def export(folder: Path, database: str, gates: str | None, from_: datetime | None, to: datetime | None) -> None:
    """Write the historian's fleet, maintenance and readings as a dataset folder, as `train` and `import` read it.

    What was interrupted goes on where it stopped when the same command is given again.

    \b
    sluicewatch export fleet/ --database sqlite:///gates.sqlite
    sluicewatch export spring/ --gates DSH-S1-G1,DSH-S1-G2 --from 2026-03-01 --to 2026-05-31
    """
    from pipeline import transfer

    chosen = None if gates is None else [gate_id.strip() for gate_id in gates.split(",")]
    before = None if to is None else to + timedelta(days=1)
    with counted_progress("export") as progress:
        n = transfer.export_dataset(
            open_database(database), folder, gate_ids=chosen, first=from_, before=before, progress=progress
        )
    click.echo(f"{n} gates exported to {folder}")


@click.group(name="maintenance")
def maintenance_group() -> None:
    """Failures, repairs and what was found: what the model learns from."""


@maintenance_group.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@database_option
def maintenance_import(file: Path, database: str) -> None:
    """Take maintenance records from a CSV file with the columns of maintenance.csv, all of them or none.

    A record is known again by gate, component, kind and start, and takes what the file tells anew: an end, a finding.

    \b
    sluicewatch maintenance import orders.csv --database sqlite:///gates.sqlite
    """
    from pipeline import historian
    from service.work import import_file

    with historian.writing(open_database(database)) as connection:
        found = import_file(connection, file, wall(), actor())
    click.echo(f"{found.total()} records: {found['new']} new, {found['changed']} changed, {found['known']} known before")

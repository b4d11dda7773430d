"""Command of whoever wants to know how fast it is here: `bench`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import BadInput
from service.cli.parts import counted_progress, make_folder, option

if TYPE_CHECKING:
    from service.bench.report import Figure

out_option = option("--out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Write the figures here (JSON).")
days_option = option("--days", type=click.IntRange(1, 10_000), default=60, show_default=True, help="Days of the fleet.")


def _repeats(default: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return option("--repeats", type=click.IntRange(1, 1000), default=default, show_default=True, help="Runs of each kind.")


def _gates(fewest: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return option("--gates", type=click.IntRange(fewest, 10_000), default=24, show_default=True, help="Gates of the fleet.")


@click.group(name="bench", invoke_without_command=True)
@out_option
@click.pass_context
def bench_group(context: click.Context, out: Path | None) -> None:
    """Measure how fast the service is on this machine; without a command, everything (some minutes) but what lasts longer.

    \b
    sluicewatch bench --out bench.json
    """
    if context.invoked_subcommand is None:
        _tell([*_ingest(20_000, 5), *_simulate(24, 60, 3), *_score(24, 60, 5)], out)
    elif out is not None:
        context.default_map = {context.invoked_subcommand: {"out": out}}


@bench_group.command()
@option("--messages", type=click.IntRange(10, 1_000_000), default=20_000, show_default=True, help="Messages of a run.")
@_repeats(5)
@out_option
def ingest(messages: int, repeats: int, out: Path | None) -> None:
    """Messages over MQTT, stored before they are acknowledged, against a subscriber that does nothing.

    Needs Mosquitto. TMPDIR says on which disk the database is.

    \b
    sluicewatch bench ingest --messages 20000 --repeats 5
    """
    _tell(_ingest(messages, repeats), out)


@bench_group.command()
@option("--gates", type=click.IntRange(1, 10_000), default=10_000, show_default=True, help="Gates, five components each.")
@option("--rate", type=click.IntRange(1, 100_000), default=1_000, show_default=True, help="Messages a second of them all.")
@option("--seconds", type=click.IntRange(1, 3_600), default=60, show_default=True, help="How long a run is.")
@_repeats(3)
@out_option
def steady(gates: int, rate: int, seconds: int, repeats: int, out: Path | None) -> None:
    """Messages of many gates at a steady rate: how long until each is stored, and the memory of ingest.

    Each repeat is two runs: one of good messages, and one in which one of a hundred is poison. Needs Mosquitto. As it lasts,
    `bench` without a command leaves it out.

    \b
    sluicewatch bench steady --gates 10000 --rate 1000 --seconds 60
    """
    from service.bench.ingest import bench_steady

    with counted_progress("steady") as progress:
        _tell(bench_steady(gates, rate, seconds, repeats, progress), out)


@bench_group.command(name="import")
@option("--gates", type=click.IntRange(1, 10_000), default=32, show_default=True, help="Gates of the fleet.")
@option("--days", type=click.IntRange(1, 10_000), default=720, show_default=True, help="Days of the fleet.")
@_repeats(1)
@option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes that simulate the fleet.")
@out_option
def import_(gates: int, days: int, repeats: int, jobs: int, out: Path | None) -> None:
    """Values a second from a dataset folder into an empty historian, and the memory that takes.

    Not part of the run without a command: the default, 50 million values, takes some minutes.

    \b
    sluicewatch bench import --gates 32 --days 720
    """
    from service.bench.importing import bench_import

    with counted_progress("import") as progress:
        _tell(bench_import(gates, days, repeats, jobs, progress), out)


@bench_group.command()
@_gates(2)
@days_option
@_repeats(3)
@option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the gates.")
@out_option
def simulate(gates: int, days: int, repeats: int, jobs: int, out: Path | None) -> None:
    """Seconds to simulate a fleet as a dataset folder, and how they grow with its gates.

    \b
    sluicewatch bench simulate --gates 24 --days 60
    """
    _tell(_simulate(gates, days, repeats, jobs), out)


@bench_group.command()
@_gates(1)
@days_option
@_repeats(5)
@option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the gates.")
@out_option
def score(gates: int, days: int, repeats: int, jobs: int, out: Path | None) -> None:
    """Gates a second on a scoring day, and forecasts against the bare trees on the same rows.

    From 240 gates on, copies of 24 simulated ones are scored on one day, once a tenth of them and once all.

    \b
    sluicewatch bench score --gates 24 --days 60
    sluicewatch bench score --gates 10000 --days 120 --jobs 2
    """
    _tell(_score(gates, days, repeats, jobs), out)


@bench_group.command()
@option("--gates", type=click.IntRange(1, 10_000), default=2_000, show_default=True, help="Simulated gates, three a station.")
@option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=200.0,
    show_default=True,
    help="Most messages a second of them all.",
)
@option("--seconds", type=click.FloatRange(0, 86_400, min_open=True), default=300.0, show_default=True, help="How long.")
@out_option
def publish(gates: int, rate: float, seconds: float, out: Path | None) -> None:
    """Simulated gates that publish from one process: published, acknowledged and received must agree.

    Needs Mosquitto. As it lasts for --seconds, by default 5 minutes, `bench` without a command leaves it out.

    \b
    sluicewatch bench publish --gates 2000 --rate 200 --seconds 300
    """
    _tell(_publish(gates, rate, seconds), out)


@bench_group.command()
@option("--gates", type=click.IntRange(2, 10_000), default=100, show_default=True, help="Gates of each fleet.")
@option("--days", type=click.IntRange(60, 10_000), default=720, show_default=True, help="Days of each fleet.")
@option("--seeds", default="101,102,103", show_default=True, help="One fleet for each.")
@option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes that share the gates.")
@out_option
def oracle(gates: int, days: int, seeds: str, jobs: int, out: Path | None) -> None:
    """Whether the simulator's oracle is calibrated, how far the shipped model is below it, and how hard the fleets are.

    Not part of the run without a command: it takes a quarter of an hour.

    \b
    sluicewatch bench oracle --out docs/results/oracle.json
    """
    from service.bench.oracle import bench_oracle

    with counted_progress("oracle") as progress:
        _tell(bench_oracle(gates, days, _seeds(seeds), jobs, progress), out)


@bench_group.command()
@option("--gates", type=click.IntRange(2, 10_000), default=100, show_default=True, help="Gates of each live fleet.")
@option("--days", type=click.IntRange(30, 1_000), default=90, show_default=True, help="Days each is watched.")
@option("--reference-gates", type=click.IntRange(10, 10_000), default=200, show_default=True, help="Gates learnt from.")
@option("--reference-days", type=click.IntRange(150, 10_000), default=420, show_default=True, help="Days learnt from.")
@option("--seeds", default="601,602,603", show_default=True, help="One live fleet for each.")
@option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the gates.")
@out_option
def drift(gates: int, days: int, reference_gates: int, reference_days: int, seeds: str, jobs: int, out: Path | None) -> None:
    """Fleet warnings without drift and in a warm season, and days until a shifted channel is found.

    Not part of the run without a command: it takes some minutes.

    \b
    sluicewatch bench drift --out docs/results/drift.json
    """
    from service.bench.drift import bench_drift

    with counted_progress("drift") as progress:
        _tell(bench_drift(gates, days, reference_gates, reference_days, _seeds(seeds), jobs, progress), out)


@bench_group.command()
@option("--work", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of what is kept between runs.")
@option("--part", default="all", show_default=True, help="Which part, or all; the work folder keeps what is done.")
@option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes that share the gates.")
@out_option
def forecast(work: Path, part: str, jobs: int, out: Path | None) -> None:
    """What the shipped model is worth on simulated fleets it has not seen, beside what could be had.

    Parts: fleets, core, budget, two_channels, scenarios, in_domain, peers. Each takes up to an hour; a run that was cut off
    goes on where it stopped. Prints and writes the figures of every part that is done.

    \b
    sluicewatch bench forecast --work build/bench --part core
    sluicewatch bench forecast --work build/bench --out docs/results/forecast.json
    """
    from service.bench.forecast import PARTS, bench_forecast

    if part not in (*PARTS, "all"):
        raise BadInput(f"part: must be all or one of {', '.join(PARTS)}; got {part!r}")
    with counted_progress("forecast") as progress:
        _tell(bench_forecast(work, list(PARTS) if part == "all" else [part], jobs=jobs, progress=progress), out)


@bench_group.command()
@option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("../shared/data"),
    show_default=True,
    help="Folder of the archives.",
)
@option("--part", default="all", show_default=True, help="skab, femto, ims or all.")
@out_option
def real(data: Path, part: str, out: Path | None) -> None:
    """Real data, not simulated: SKAB, FEMTO and IMS by their protocols, beside published figures and controls.

    The data are not part of the product; a part whose archive is not in the folder is named and left out. Not part of the
    run without a command: it takes some minutes.

    \b
    sluicewatch bench real --data data/ --out docs/results/real.json
    sluicewatch bench real --data data/ --part skab
    """
    from service.bench.real import PARTS, bench_real, missing

    if part not in (*PARTS, "all"):
        raise BadInput(f"part: must be all or one of {', '.join(PARTS)}; got {part!r}")
    wanted = list(PARTS) if part == "all" else [part]
    absent = missing(data)
    for name in wanted:
        if name in absent:
            click.echo(f"{name} left out: {absent[name]}")
    there = [name for name in wanted if name not in absent]
    if there:
        with counted_progress("real") as progress:
            _tell(bench_real(data, there, progress), out)


def _seeds(text: str) -> list[int]:
    if not all(seed.strip().isdigit() for seed in text.split(",")):
        raise BadInput(f"seeds: must be whole numbers with commas between, as 101,102; got {text!r}")
    return [int(seed) for seed in text.split(",")]


def _ingest(messages: int, repeats: int) -> list[Figure]:
    from service.bench.ingest import bench_ingest

    with counted_progress("ingest") as progress:
        return bench_ingest(messages, repeats, progress)


def _simulate(gates: int, days: int, repeats: int, jobs: int = 1) -> list[Figure]:
    from service.bench.simulate import bench_simulate

    with counted_progress("simulate") as progress:
        return bench_simulate(gates, days, repeats, jobs, progress)


def _score(gates: int, days: int, repeats: int, jobs: int = 1) -> list[Figure]:
    from service.bench.score import MANY, bench_many, bench_score

    with counted_progress("score") as progress:
        if gates >= MANY:
            return bench_many(gates, days, jobs, progress)
        return bench_score(gates, days, repeats, progress)


def _publish(gates: int, rate: float, seconds: float) -> list[Figure]:
    from service.bench.publish import bench_publish

    with counted_progress("publish") as progress:
        return bench_publish(gates, rate, seconds, progress)


def _tell(figures: list[Figure], out: Path | None) -> None:
    from service.bench.report import document, machine, table

    on = machine()
    click.echo(table(figures, on))
    if out is not None:
        make_folder(out)
        out.write_text(document(figures, on), encoding="utf-8")

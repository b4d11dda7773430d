"""The command of whoever connects devices: `check`."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.errors import BadInput
from service.cli.parts import (
    counted_progress,
    mapping_option,
    mqtt_option,
    open_database,
    option,
    read_mapping_file,
    stop_on_signals,
    tls_options,
    wall,
)

if TYPE_CHECKING:
    from pipeline.adapters.mapping import DeviceMap
    from pipeline.check import Declared, Report
    from pipeline.spectra import Machine

EXIT_CODES = {"well": 0, "wrong": 1, "nothing": 2}
DRAIN_S = 2.0
_ACCOUNT_OF_A_PROCESS = re.compile(r"(ingest|deliver)-\d+\Z")


@click.command()
@mqtt_option
@option("--gate", required=True, help="The gate's id.")
@mapping_option
@option("--database", default=None, help="Whose declared channels to miss; works without.")
@option(
    "--dataset",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="The same from a dataset folder.",
)
@option("--seconds", type=click.FloatRange(1, 86_400), default=60.0, show_default=True, help="How long to listen.")
@option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@tls_options
def check(
    mqtt: str,
    gate: str,
    mapping: Path | None,
    database: str | None,
    dataset: Path | None,
    seconds: float,
    as_json: bool,
    **tls: Any,
) -> None:
    """Listen to one gate and tell what arrives, what is missing, what looks wrong, and how to mend it.

    It judges as ingest does, needs no database and disturbs nobody. Exit code 0: all is well; 1: something is to be mended;
    2: nothing came.

    \b
    sluicewatch check --mqtt mqtt://broker:1883 --gate DSH-S3-G1
    sluicewatch check --mqtt mqtts://check:PASSWORD@broker:8884 --mqtt-ca ca.crt --gate DSH-S3-G1 --mapping mapping.toml
    """
    from pipeline import historian
    from pipeline.check import Watch
    from pipeline.subscription import BrokerError, IngestSettings, Subscription, parse_mqtt_url

    address = parse_mqtt_url(mqtt)
    if _ACCOUNT_OF_A_PROCESS.match(address.user or ""):
        raise BadInput(
            f"mqtt: {address.user} is the account of another process, which the broker would throw out for us; give check its own"
        )
    declared, device_map = _declared(gate, database, dataset, mapping)
    watch = Watch(gate, device_map, declared)
    client_id = f"sluicewatch-check-{secrets.token_hex(4)}"
    link = Subscription(IngestSettings(mqtt, client_id=client_id, keep_session=False, **tls), watch.filters)
    stop = stop_on_signals()
    try:
        link.open()
        while not link.subscribed:
            link.turn(0.25)
        click.echo(f"listening for {gate} at {address} for {seconds:g} s; Ctrl-C ends it earlier", err=True)
        began = time.monotonic()
        with counted_progress("listening") as progress:
            ends = began + seconds
            over = False
            while not over:
                now = time.monotonic()
                if stop.is_set():
                    ends = min(ends, now)
                came = link.turn(0.25)
                # what is on its way at the end is still heard, unless it never falls silent
                over = now >= ends and (not came or now - ends > DRAIN_S)
                now_ms = historian.to_ms(wall())
                for message, packet_id in zip(link.inbox, link.packet_ids, strict=True):
                    watch.take(message, min(packet_id, 1), now_ms)
                link.acknowledge()
                if progress is not None:
                    progress(int(min(seconds, now - began)), int(seconds))
        report = watch.report(time.monotonic() - began)
    except BrokerError as error:
        if not link.subscribed:
            raise
        raise BrokerError(
            f"{error}; the connection ended while it listened: a second client of one account ends the first"
        ) from None
    finally:
        link.close()
    now_ms = historian.to_ms(wall())
    for line in [json.dumps(_document(report, now_ms))] if as_json else _lines(report, now_ms):
        click.echo(line)
    click.get_current_context().exit(EXIT_CODES[report.verdict])


def _declared(gate: str, database: str | None, dataset: Path | None, mapping: Path | None) -> tuple[Declared, DeviceMap]:
    """What a database or a dataset knows of the gate, and the mapping file, checked against the gates they know."""
    from pipeline.check import Declared

    if database is not None and dataset is not None:
        raise BadInput("database, dataset: give one of them")
    if dataset is not None:
        from pipeline.dataset import open_dataset
        from pipeline.intake import since_ms

        folder = open_dataset(dataset, need_readings=False)
        gate_ids = set(folder.gate_ids)
        found = Declared(registered=gate in gate_ids)
        if found.registered:
            row = folder.gates.set_index("gate_id").loc[gate]
            since, channels = since_ms(str(row["commissioned_on"])), tuple(folder.declared(gate))
            parts = folder.components[folder.components["gate_id"] == gate].to_dict("records")
            found = Declared(True, str(row["station_id"]), since, channels, _machines(parts))
        return found, read_mapping_file(mapping, gate_ids)
    if database is None:
        return Declared(), read_mapping_file(mapping, None)
    return _registered(gate, database, mapping)


def _registered(gate: str, database: str, mapping: Path | None) -> tuple[Declared, DeviceMap]:
    import sqlalchemy as sa

    from pipeline import historian
    from pipeline.check import Declared
    from pipeline.intake import since_ms

    gates = historian.gates.c
    with open_database(database).connect() as connection:
        gate_ids = set(connection.scalars(sa.select(gates.gate_id)))
        row = connection.execute(sa.select(gates.station_id, gates.commissioned_on).where(gates.gate_id == gate)).one_or_none()
        channels = tuple(slot.channel for slot in historian.load_slots(connection, gate).values())
        parts = historian.load_table(connection, historian.components, [gate]).to_dict("records")
    device_map = read_mapping_file(mapping, gate_ids)
    if row is None:
        return Declared(registered=False), device_map
    return Declared(True, row.station_id, since_ms(row.commissioned_on), channels, _machines(parts)), device_map


def _machines(components: Iterable[Mapping[Any, Any]]) -> dict[str, Machine]:
    import math

    from pipeline.spectra import Machine

    known: list[dict[Any, Any]] = [
        {name: math.nan if value is None else value for name, value in row.items()} for row in components
    ]
    return {row["component"]: Machine.of(row) for row in known if row["speed_rpm"] > 0}


def _lines(report: Report, now_ms: int) -> Iterator[str]:
    for arriving in report.arriving:
        every = "" if arriving.every_s is None else f", every {arriving.every_s:.3g} s"
        sent_in = f" (sent in {arriving.sent_in})" if arriving.sent_in not in ("", arriving.unit) else ""
        count = f"{arriving.readings} reading{'s' * (arriving.readings > 1)}"
        age_s = (now_ms - arriving.newest_ms) / 1000
        value = f"{arriving.newest:.4g} {arriving.unit}".removesuffix(" 1")
        yield f"arrives  {arriving.channel}: {value}{sent_in}, {age_s:.0f} s old; {count}{every}"
    for finding in report.findings:
        yield f"{finding.kind:<7}  {finding.text}" + (f" -> {finding.mend}" if finding.mend else "")
    wrong = sum(finding.kind != "note" for finding in report.findings)
    messages = f"{report.messages} message{'s' * (report.messages != 1)}"
    yield {
        "well": f"all is well with {report.gate_id}: {messages}",
        "wrong": f"{wrong} to be mended; {messages} of {report.gate_id} came",
        "nothing": f"nothing of {report.gate_id} came",
    }[report.verdict]


def _document(report: Report, now_ms: int) -> dict[str, Any]:
    from pipeline.adapters.checks import utc

    return {
        "gate_id": report.gate_id,
        "verdict": report.verdict,
        "messages": report.messages,
        "arrives": [
            {
                "channel": arriving.channel,
                "value": arriving.newest,
                "unit": arriving.unit,
                "sent_in": arriving.sent_in,
                "t": utc(arriving.newest_ms),
                "age_s": (now_ms - arriving.newest_ms) / 1000,
                "readings": arriving.readings,
                "every_s": arriving.every_s,
                "from": sorted(arriving.speakers),
            }
            for arriving in report.arriving
        ],
        "findings": [finding._asdict() for finding in report.findings],
    }

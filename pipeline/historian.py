"""The historian: tables and queries for gates, channels, readings, operations and maintenance.

Readings are stored as one wide row per (component, time) under a clustered key. Each channel of a component has a slot
`v0`..`v15` in the rows of one *series*; a component with more than 16 channels has a second series. Writing a reading
twice changes nothing; where two different values meet on one (channel, time) the greater stays, so that the order of
arrival never matters. The hot path is raw SQL that SQLite and PostgreSQL both understand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect, Engine

from pipeline.errors import BadInput
from pipeline.readings import Channel, Stretch, find_conversion

SLOTS = 16
"""Channels in one wide row."""

metadata = sa.MetaData()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UtcMillis(sa.types.TypeDecorator[datetime]):
    """An aware UTC datetime, stored as epoch milliseconds so that SQLite and PostgreSQL sort and compare alike."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Turn an aware datetime into epoch milliseconds; a naive one is a programming error."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"an instant must be aware UTC; got naive {value!r}")
        return to_ms(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Turn epoch milliseconds into an aware UTC datetime."""
        return None if value is None else from_ms(value)


def to_ms(instant: datetime) -> int:
    """Epoch milliseconds of an aware datetime."""
    return (instant - _EPOCH) // timedelta(milliseconds=1)


def from_ms(ts_ms: int) -> datetime:
    """Aware UTC datetime of epoch milliseconds."""
    return _EPOCH + timedelta(milliseconds=ts_ms)


stations = sa.Table(
    "stations",
    metadata,
    sa.Column("station_id", sa.String(128), primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("name_zh", sa.Text),
    sa.Column("basin", sa.Text),
    sa.Column("river", sa.Text),
    sa.Column("river_km", sa.Float),
    sa.Column("downstream_station_id", sa.String(128)),
    sa.Column("time_zone", sa.Text),
    sa.Column("latitude", sa.Float),
    sa.Column("longitude", sa.Float),
)
gates = sa.Table(
    "gates",
    metadata,
    sa.Column("gate_id", sa.String(128), primary_key=True),
    sa.Column("station_id", sa.String(128), nullable=False, index=True),
    sa.Column("name", sa.Text),
    sa.Column("name_zh", sa.Text),
    sa.Column("gate_type", sa.Text),
    sa.Column("hoist_type", sa.Text),
    sa.Column("role", sa.Text),
    sa.Column("criticality", sa.Text),
    sa.Column("travel_m", sa.Float),
    sa.Column("commissioned_on", sa.Text),
    sa.Column("last_seen_ms", sa.BigInteger),
    sa.Column("connection", sa.String(16)),  # online or offline, as the gate or its will said last
    sa.Column("connection_at", UtcMillis),  # when we heard of it
    sa.Column("source", sa.Text),  # of the dataset that brought the gate; what a model is trained on must say where it is from
    sa.Column("licence", sa.Text),
)
components = sa.Table(
    "components",
    metadata,
    sa.Column("gate_id", sa.String(128), primary_key=True),
    sa.Column("component", sa.String(128), primary_key=True),
    sa.Column("rated_power_kw", sa.Float),
    sa.Column("rated_current_a", sa.Float),
    sa.Column("speed_rpm", sa.Float),
    sa.Column("bearing_balls", sa.Float),
    sa.Column("bearing_ball_mm", sa.Float),
    sa.Column("bearing_pitch_mm", sa.Float),
    sa.Column("bearing_angle_deg", sa.Float),
    sa.Column("gear_teeth", sa.Float),
    sa.Column("iso_class", sa.Text),
)
channels = sa.Table(
    "channels",
    metadata,
    sa.Column("channel_id", sa.Integer, primary_key=True),
    sa.Column("gate_id", sa.String(128), nullable=False),
    sa.Column("component", sa.String(128), nullable=False),
    sa.Column("point", sa.String(128), nullable=False, server_default=""),
    sa.Column("quantity", sa.String(64), nullable=False),
    sa.Column("unit", sa.String(16), nullable=False),
    sa.Column("axis", sa.Text, nullable=False, server_default=""),
    sa.Column("band_low_hz", sa.Float),
    sa.Column("band_high_hz", sa.Float),
    sa.Column("interval_s", sa.Float),
    sa.Column("series_id", sa.Integer, nullable=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.UniqueConstraint("gate_id", "component", "point", "quantity"),
    sa.UniqueConstraint("series_id", "slot"),
)
readings = sa.Table(
    "readings",
    metadata,
    sa.Column("series_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("ts_ms", sa.BigInteger, primary_key=True, autoincrement=False),
    *(sa.Column(f"v{slot}", sa.Float(53)) for slot in range(SLOTS)),
    sqlite_with_rowid=False,
)
dirty_days = sa.Table(
    "dirty_days",
    metadata,
    sa.Column("gate_id", sa.String(128), primary_key=True),
    sa.Column("day_ms", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("mark", sa.BigInteger, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)
operations = sa.Table(
    "operations",
    metadata,
    sa.Column("gate_id", sa.String(128), primary_key=True),
    sa.Column("started_ms", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("ended_ms", sa.BigInteger, nullable=False),
    sa.Column("summary", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
days = sa.Table(
    "days",
    metadata,
    sa.Column("gate_id", sa.String(128), primary_key=True),
    sa.Column("day_ms", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("summary", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
summary_names = sa.Table(
    "summary_names",
    metadata,
    sa.Column("gate_id", sa.String(128), primary_key=True),
    sa.Column("told_of", sa.String(16), primary_key=True),
    sa.Column("names", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)
maintenance = sa.Table(
    "maintenance",
    metadata,
    sa.Column("maintenance_id", sa.Integer, primary_key=True),
    sa.Column("gate_id", sa.String(128), nullable=False),
    sa.Column("component", sa.String(128), nullable=False, server_default=""),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("failure_mode", sa.Text),
    sa.Column("started_at", UtcMillis, nullable=False),
    sa.Column("ended_at", UtcMillis),
    sa.Column("finding", sa.String(32)),
    sa.Column("alert_id", sa.String(64)),
    sa.Column("note", sa.Text),
    sa.Column("recorded_at", UtcMillis, nullable=False),
    sa.Index("ix_maintenance_gate_started", "gate_id", "started_at"),
)
quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("quarantine_id", sa.Integer, primary_key=True),
    sa.Column("received_at", UtcMillis, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("reason", sa.String(32), nullable=False, index=True),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("publisher", sa.String(200)),  # the first levels of the topic: a gate, a device
    sa.Column("used", sa.Integer, nullable=False, server_default="0"),  # how many of its readings were good and are stored
    sa.Index("ix_quarantine_publisher", "publisher", "quarantine_id"),
)
ingest_shares = sa.Table(
    "ingest_shares",
    metadata,
    sa.Column("share", sa.Text, primary_key=True),
    sa.Column("stations", sa.Text, nullable=False),
)
tallies = sa.Table(
    "tallies",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

_RAW_FROM, _FLEET_CHANGES = "raw_from_ms", "fleet_changes"
_SERIES_AT_ONCE = 50
QUARANTINE_ROWS, QUARANTINE_ROWS_EACH = 10_000, 500
"""Messages that quarantine keeps, and of one publisher: a device that floods it pushes out its own."""

QUARANTINE_PAYLOAD_BYTES = 4096
PUBLISHER_LEVELS, PUBLISHER_CHARACTERS = 4, 200


def connect(url: str) -> Engine:
    """Open the database at `url`: ``sqlite:///path/file.sqlite`` or ``postgresql://user@host/name``.

    SQLite is set to WAL with ``synchronous=FULL``, so that a commit is on disk when it returns, and waits up to 30 s
    for another process's write. Transactions that write should begin with `writing`, not with `Engine.begin`.

    Raises
    ------
    BadInput
        The URL is of neither kind, or the folder of the file does not exist.
    """
    if url.startswith("postgresql://"):
        return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), pool_pre_ping=True)
    if not url.startswith("sqlite:///"):
        raise BadInput(f"database: allowed are sqlite:///FILE and postgresql://…; got {url!r}")
    folder = Path(url.removeprefix("sqlite:///")).parent
    if not folder.is_dir():
        raise BadInput(f"database: the folder {folder} of {url!r} does not exist")
    engine = sa.create_engine(url, connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's BEGIN below decides, not the driver's implicit one
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-65536", "wal_autocheckpoint=8000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # a transaction that reads first and writes later cannot be retried when another process wrote between;
        # so writers take the write lock at once, and readers see one snapshot
        immediate = connection.get_execution_options().get("sqlite_immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def url_of(engine: Engine) -> str:
    """Return the URL that `connect` was given, for a process that opens the database anew."""
    name = "postgresql" if engine.dialect.name == "postgresql" else engine.url.drivername
    return engine.url.set(drivername=name).render_as_string(hide_password=False)


def writing(engine: Engine) -> Any:
    """Begin a transaction that will write; on SQLite it takes the write lock at once.

    Examples
    --------
    >>> with writing(engine) as connection:            # doctest: +SKIP
    ...     tally(connection, "messages_stored", 1)
    """
    return engine.execution_options(sqlite_immediate=True).begin()


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a channel's values are: column ``v{slot}`` of the rows of `series_id`."""

    channel: Channel
    series_id: int
    slot: int


def load_slots(connection: Connection, of: str | Sequence[str] | None = None) -> dict[tuple[str, str, str], Slot]:
    """Every declared channel (of one gate, of some, or of all), keyed by (gate_id, component, `Channel.name`)."""
    query = sa.select(channels)
    if of is not None:
        query = query.where(channels.c.gate_id.in_([of] if isinstance(of, str) else list(of)))
    found = {}
    for row in connection.execute(query).mappings():
        fields = {name: row[name] for name in Channel.__dataclass_fields__}
        slot = Slot(Channel(**fields), row["series_id"], row["slot"])
        found[(row["gate_id"], row["component"], slot.channel.name)] = slot
    return found


def declare_channels(connection: Connection, declared: Iterable[Channel]) -> None:
    """Make the channels known, each with a slot of its own; a known one keeps its slot and takes the new details.

    `Channel.unit` is the unit in which values arrive where a message names none; what is stored is always canonical.
    """
    by_gate: dict[str, list[Channel]] = {}
    for channel in declared:
        find_conversion(channel.quantity, channel.unit)
        by_gate.setdefault(channel.gate_id, []).append(channel)
    last_series = connection.scalar(sa.select(sa.func.coalesce(sa.func.max(channels.c.series_id), 0))) or 0
    for gate_id, wanted in by_gate.items():
        known = load_slots(connection, gate_id)
        used: dict[str, dict[int, int]] = {}
        for slot in known.values():
            series = used.setdefault(slot.channel.component, {})
            series[slot.series_id] = max(series.get(slot.series_id, 0), slot.slot + 1)
        for channel in wanted:
            key = (gate_id, channel.component, channel.name)
            row = {name: getattr(channel, name) for name in Channel.__dataclass_fields__}
            if key in known:
                where = (channels.c.series_id == known[key].series_id) & (channels.c.slot == known[key].slot)
                connection.execute(sa.update(channels).where(where).values(row))
                continue
            series = used.setdefault(channel.component, {})
            free = next((series_id for series_id, taken in series.items() if taken < SLOTS), None)
            if free is None:
                last_series += 1
                free = last_series
                series[free] = 0
            connection.execute(sa.insert(channels).values({**row, "series_id": free, "slot": series[free]}))
            known[key] = Slot(channel, free, series[free])
            series[free] += 1
    tally(connection, _FLEET_CHANGES, 1)


WideRow = tuple[Any, ...]
"""``(series_id, ts_ms, v0, …)``: up to 16 cells, None or NaN where a channel was not measured."""


def store_readings(connection: Connection, rows: Sequence[WideRow]) -> int:
    """Write wide rows column by column: an empty cell is filled, of two different values the greater stays.

    Give each (series, time) at most once per call, sorted, which is also the fastest order for the clustered key. Leave
    out the trailing cells that were not measured and let NaN stand for others: Python's driver is slow to bind None
    (measured, five values in a row: 4.8 us with eleven None, 2.1 us with eleven NaN, 1.4 us with none of them).

    Returns
    -------
    int
        Conflicts: cells where a different value already stood.
    """
    by_width: dict[int, list[WideRow]] = {}
    for row in rows:
        by_width.setdefault(len(row), []).append(row)
    return sum(_store_alike(connection, alike) for alike in by_width.values())


def _store_alike(connection: Connection, rows: list[WideRow]) -> int:
    sqlite = connection.dialect.name == "sqlite"
    if not sqlite:  # SQLite takes NaN for NULL; PostgreSQL would keep it
        rows = _without_nan(rows)
    width = len(rows[0])
    insert = (
        f"INSERT INTO readings ({', '.join(_COLUMNS[:width])}) "  # noqa: S608 - fixed words only
        f"VALUES ({', '.join(['?' if sqlite else '%s'] * width)}) ON CONFLICT DO NOTHING"
    )
    inserted = connection.execution_options(preserve_rowcount=True).exec_driver_sql(insert, rows)
    if inserted.rowcount == len(rows):  # nearly always; looking up what stood there costs as much again
        return 0
    stored = stored_rows(connection, [row[:2] for row in rows])
    changed = [row for row in _without_nan(rows) if stored[row[:2]][:width] != row]
    if changed:
        left_out = (None,) * (len(_COLUMNS) - width)
        connection.exec_driver_sql(_UPSERT[connection.dialect.name], [(*row, *left_out) for row in changed])
    return sum(
        new is not None and old is not None and new != old
        for row in changed
        for new, old in zip(row[2:], stored[row[:2]][2:], strict=False)
    )


def _without_nan(rows: Iterable[WideRow]) -> list[WideRow]:
    return [tuple(None if cell != cell else cell for cell in row) for row in rows]


_COLUMNS = ("series_id", "ts_ms", *(f"v{slot}" for slot in range(SLOTS)))


def _upsert(greater: str, placeholder: str) -> str:
    merged = ", ".join(
        f"{v} = {greater}(coalesce(readings.{v}, excluded.{v}), coalesce(excluded.{v}, readings.{v}))" for v in _COLUMNS[2:]
    )
    values = ", ".join([placeholder] * len(_COLUMNS))
    return (
        f"INSERT INTO readings ({', '.join(_COLUMNS)}) VALUES ({values}) "  # noqa: S608 - fixed words only
        f"ON CONFLICT (series_id, ts_ms) DO UPDATE SET {merged}"
    )


_UPSERT = {"sqlite": _upsert("max", "?"), "postgresql": _upsert("greatest", "%s")}

_KEYS_AT_ONCE = 4000  # two variables each; SQLite allows 32,766 in a statement


def stored_rows(connection: Connection, keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], WideRow]:
    """Return the stored wide rows among `keys` (series_id, ts_ms)."""
    mark = "(?, ?)" if connection.dialect.name == "sqlite" else "(%s, %s)"
    columns = ", ".join(f"r.{name}" for name in _COLUMNS)
    found: dict[tuple[int, int], WideRow] = {}
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        # CROSS JOIN fixes SQLite's order: the keys outside, a search of the clustered key inside
        query = (
            f"WITH k (series_id, ts_ms) AS (VALUES {', '.join([mark] * len(some))}) SELECT {columns} "  # noqa: S608 - fixed words only
            "FROM k CROSS JOIN readings r WHERE r.series_id = k.series_id AND r.ts_ms = k.ts_ms"
        )
        for row in connection.exec_driver_sql(query, tuple(part for key in some for part in key)):
            found[(row.series_id, row.ts_ms)] = tuple(row)
    return found


def mark_seen(connection: Connection, newest_ms: Mapping[str, int]) -> None:
    """Move each gate's newest event time forward, never back."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    if newest_ms:
        connection.exec_driver_sql(
            f"UPDATE gates SET last_seen_ms = {mark} WHERE gate_id = {mark} "  # noqa: S608 - fixed words only
            f"AND (last_seen_ms IS NULL OR last_seen_ms < {mark})",
            [(ts_ms, gate_id, ts_ms) for gate_id, ts_ms in sorted(newest_ms.items())],
        )


def mark_connected(connection: Connection, said: Mapping[str, str], at: datetime) -> None:
    """Note what gates said of their connection; the same again changes nothing, so that it stays known since when.

    Not before the gate's newest reading, which a clock that is ahead may have put after it.
    """
    at_ms = to_ms(at)
    for gate_id, word in sorted(said.items()):
        new = sa.and_(gates.c.gate_id == gate_id, gates.c.connection.is_distinct_from(word))
        since_ms = sa.case((gates.c.last_seen_ms > at_ms, gates.c.last_seen_ms), else_=at_ms)
        connection.execute(sa.update(gates).where(new).values(connection=word, connection_at=sa.type_coerce(since_ms, UtcMillis)))


def register_gate(connection: Connection, gate_id: str, station_id: str) -> None:
    """Make a gate known of which nothing but its station is known yet."""
    if connection.scalar(sa.select(gates.c.gate_id).where(gates.c.gate_id == gate_id)) is None:
        connection.execute(sa.insert(gates).values(gate_id=gate_id, station_id=station_id))
        tally(connection, _FLEET_CHANGES, 1)


def fleet_changes(connection: Connection) -> int:
    """How often gates or channels were registered or brought up to date: who holds them in memory reads them anew by it."""
    return _tally(connection, _FLEET_CHANGES)


def tally(connection: Connection, name: str, n: int) -> None:
    """Add `n` to a counter, in the same transaction as what it counts."""
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    connection.exec_driver_sql(
        f"INSERT INTO tallies (name, value) VALUES ({mark}, {mark}) "  # noqa: S608 - fixed words only
        "ON CONFLICT (name) DO UPDATE SET value = tallies.value + excluded.value",
        (name, n),
    )


def refused(reason: str) -> str:
    """The counter of messages refused for a reason."""
    return f"refused_{reason}"


def load_tallies(connection: Connection) -> dict[str, int]:
    """Every counter of messages by name."""
    counters = sa.select(tallies).where(tallies.c.name.not_in((_RAW_FROM, _FLEET_CHANGES)))
    return {row.name: row.value for row in connection.execute(counters)}


def forget_readings(engine: Engine, before_ms: int) -> int:
    """Delete raw readings from before a UTC midnight (epoch ms); what operations and days showed stays. Return how many rows.

    Days that are still to be cut keep theirs, and later ones with them. First it is written down from when on there are readings,
    so that a late one can never make an old day anew from itself alone; then some series are deleted at a time, because ingest
    must not wait long.
    """
    with writing(engine) as connection:
        edge_ms = raw_from_ms(connection)
        uncut_ms = connection.scalar(sa.select(sa.func.min(dirty_days.c.day_ms)).where(dirty_days.c.day_ms >= edge_ms))
        new_edge_ms = before_ms if uncut_ms is None else min(before_ms, uncut_ms)
        if new_edge_ms <= edge_ms:
            return 0
        tally(connection, _RAW_FROM, new_edge_ms - edge_ms)
        connection.execute(sa.delete(dirty_days).where(dirty_days.c.day_ms < new_edge_ms))
        series_ids = list(connection.scalars(sa.select(channels.c.series_id).distinct().order_by(channels.c.series_id)))
    deleted = 0
    for start in range(0, len(series_ids), _SERIES_AT_ONCE):
        some = series_ids[start : start + _SERIES_AT_ONCE]
        with writing(engine) as connection:
            old = sa.and_(readings.c.series_id.in_(some), readings.c.ts_ms < new_edge_ms)
            deleted += connection.execute(sa.delete(readings).where(old)).rowcount
    return deleted


def raw_from_ms(connection: Connection) -> int:
    """From when on (epoch ms) raw readings are kept; 0 while none were forgotten."""
    return _tally(connection, _RAW_FROM)


def _tally(connection: Connection, name: str) -> int:
    return connection.scalar(sa.select(tallies.c.value).where(tallies.c.name == name)) or 0


def put_in_quarantine(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep what could not be used (received_at, topic, payload, reason, detail, used).

    The oldest of a publisher go beyond 500, and the oldest of all beyond 10,000. Who publishes is told by the first four levels
    of the topic, in most dialects a gate or a device.
    """
    if not rows:
        return
    kept: list[dict[str, Any]] = []
    of_each: Counter[str] = Counter()
    for row in reversed(rows):
        publisher = "/".join(row["topic"].split("/")[:PUBLISHER_LEVELS])[:PUBLISHER_CHARACTERS]
        of_each[publisher] += 1
        if of_each[publisher] <= QUARANTINE_ROWS_EACH:
            kept.append({**row, "publisher": publisher, "payload": row["payload"][:QUARANTINE_PAYLOAD_BYTES]})
    connection.execute(sa.insert(quarantine), kept[::-1])
    column = quarantine.c
    newest_first = sa.select(column.quarantine_id).order_by(column.quarantine_id.desc()).limit(1)
    name: sa.BindParameter[str] = sa.bindparam("name")
    beyond = newest_first.where(column.publisher == name).offset(QUARANTINE_ROWS_EACH).scalar_subquery()
    too_many = sa.delete(quarantine).where(column.publisher == name, column.quarantine_id <= beyond)
    connection.execute(too_many, [{"name": publisher} for publisher in of_each])
    beyond = newest_first.offset(QUARANTINE_ROWS).scalar_subquery()
    connection.execute(sa.delete(quarantine).where(column.quarantine_id <= beyond))


def list_quarantine(
    connection: Connection,
    *,
    reason: str | None = None,
    level: str | None = None,
    before: int | None = None,
    limit: int = QUARANTINE_ROWS,
) -> Sequence[Any]:
    """Refused messages, newest first: of one reason, whose topic has a level (a gate, a device), of ids below `before`."""
    table = quarantine.c
    query = sa.select(quarantine).order_by(table.quarantine_id.desc()).limit(limit)
    if reason is not None:
        query = query.where(table.reason == reason)
    if level is not None:
        query = query.where(("/" + table.topic + "/").contains(f"/{level}/", autoescape=True))
    if before is not None:
        query = query.where(table.quarantine_id < before)
    return connection.execute(query).fetchall()


def data_clock(connection: Connection) -> datetime | None:
    """Newest event time of the whole fleet; what a replay or a fast-forwarded demo calls now."""
    newest = connection.scalar(sa.select(sa.func.max(gates.c.last_seen_ms)))
    return None if newest is None else from_ms(newest)


Span = tuple[str, int, int]
"""A gate, from when (epoch ms), and until when (exclusive)."""

_MS_BITS = 44
"""An instant (epoch ms) of the next five hundred years has no more."""


def read_gate(connection: Connection, gate_id: str, start_ms: int, end_ms: int) -> pd.DataFrame:
    """Readings of one gate in ``[start_ms, end_ms)``.

    Returns
    -------
    DataFrame
        Column ``ts`` (datetime64[ms, UTC]), sorted and unique, and one float column per channel that has a value, named
        by `Channel.key`; the same shape as `Dataset.readings`.
    """
    stretch = read_gates(connection, [(gate_id, start_ms, end_ms)])[0]
    frame = pd.DataFrame(stretch.values.T, columns=list(stretch.channels))
    frame.insert(0, "ts", pd.DatetimeIndex(stretch.ts_ms.astype("datetime64[ms]"), tz="UTC"))
    return frame


def read_gates(connection: Connection, spans: Sequence[Span]) -> list[Stretch]:
    """Readings of several gates, each in its span; a query for each width of row."""
    slots = load_slots(connection, sorted({gate_id for gate_id, _, _ in spans}))
    keys = sorted({slot.channel.key for slot in slots.values()})
    # which row of values each cell of a series becomes, and how many cells of it are in use
    place = {key: row for row, key in enumerate(keys)}
    series_ids, series = np.unique([slot.series_id for slot in slots.values()], return_inverse=True)
    row_of = np.full((len(series_ids), SLOTS), -1, dtype=np.int64)
    row_of[series, [slot.slot for slot in slots.values()]] = [place[slot.channel.key] for slot in slots.values()]
    width_of = SLOTS - np.argmax(row_of[:, ::-1] >= 0, axis=1)
    of_gate: dict[str, dict[int, int]] = {}
    for slot, number in zip(slots.values(), series.tolist(), strict=True):
        of_gate.setdefault(slot.channel.gate_id, {})[slot.series_id] = int(width_of[number])
    wanted: dict[int, list[tuple[int, int, int, int]]] = {}
    for number, (gate_id, since_ms, before_ms) in enumerate(spans):
        for series_id, width in of_gate.get(gate_id, {}).items():
            wanted.setdefault(width, []).append((number, series_id, since_ms, before_ms))
    tables = [_wide_rows(connection, of_width, width) for width, of_width in wanted.items()]
    # the instants of all spans, one span behind the other
    instants = [(table[:, 0].astype(np.int64) << _MS_BITS) + table[:, 2].astype(np.int64) for table in tables]
    every = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *instants]))
    values = np.full((len(keys), len(every)), np.nan)
    for table, of_table in zip(tables, instants, strict=True):
        rows, at = row_of[np.searchsorted(series_ids, table[:, 1])], np.searchsorted(every, of_table)
        for cell in range(table.shape[1] - 3):
            own = rows[:, cell] >= 0
            values[rows[own, cell], at[own]] = table[own, 3 + cell]
    ends = np.searchsorted(every, np.arange(len(spans) + 1, dtype=np.int64) << _MS_BITS).tolist()
    names = np.array(keys, dtype=object)
    told = [np.isfinite(values[:, start:end]).any(axis=1) for start, end in pairwise(ends)]
    return [
        Stretch(tuple(names[own]), every[start:end] & (1 << _MS_BITS) - 1, values[own, start:end])
        for own, (start, end) in zip(told, pairwise(ends), strict=True)
    ]


def _wide_rows(connection: Connection, wanted: Sequence[tuple[int, int, int, int]], width: int) -> np.ndarray:
    """Columns number, series_id, ts_ms, v0 … of the series wanted (number, series_id, since_ms, before_ms)."""
    mark = "(?, ?, ?, ?)" if connection.dialect.name == "sqlite" else "(%s::bigint, %s::bigint, %s::bigint, %s::bigint)"
    columns = ", ".join(f"r.{name}" for name in _COLUMNS[: 2 + width])
    # CROSS JOIN fixes SQLite's order: the spans outside, a search of the clustered key inside
    query = (
        f"WITH s (number, series_id, since_ms, before_ms) AS (VALUES {', '.join([mark] * len(wanted))}) "  # noqa: S608 - fixed words only
        f"SELECT s.number, {columns} FROM s CROSS JOIN readings r "
        "WHERE r.series_id = s.series_id AND r.ts_ms >= s.since_ms AND r.ts_ms < s.before_ms"
    )
    rows = connection.exec_driver_sql(query, tuple(part for one in wanted for part in one)).cursor.fetchall()
    return np.array(rows, dtype=float).reshape(-1, 3 + width)


def load_table(connection: Connection, table: sa.Table, gate_ids: Sequence[str] | None = None) -> pd.DataFrame:
    """A whole table (or its rows of `gate_ids`) as a DataFrame, ordered by primary key."""
    query = sa.select(table).order_by(*table.primary_key.columns)
    if gate_ids is not None:
        query = query.where(table.c.gate_id.in_(list(gate_ids)))
    rows = connection.execute(query)
    return pd.DataFrame(rows.fetchall(), columns=list(rows.keys()))

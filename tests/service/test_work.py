"""Maintenance records from a CSV file: taken as a whole and once, or refused with all that is wrong, line by line."""

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from sqlalchemy.engine import Engine

from pipeline import historian
from pipeline.historian import url_of, writing
from service import store
from service.cli import main
from service.store import Actor
from service.work import WorkError, import_file
from tests.service.conftest import GATES
from tests.service.test_store import open_alert

NOW = datetime(2026, 3, 20, tzinfo=UTC)
CREW = Actor("crew", "cli")
COLUMNS = ["gate_id", "component", "kind", "failure_mode", "started_at", "ended_at", "finding", "alert_id", "note"]
ORDERS = f"""gate_id,kind,started_at,component,failure_mode,ended_at,finding,note,cost
{GATES[0]},failure,2026-03-05T10:00:00+08:00,motor,motor_bearing,,,"轴承, 剥落
两行",7
{GATES[0]},repair,2026-03-05T11:00:00+08:00,motor,,,,,9
{GATES[1]}, inspection ,2026-03-06T02:00:00Z,,,2026-03-06T03:00:00Z,,,
"""


@pytest.fixture
def with_parts(engine: Engine) -> Engine:
    with writing(engine) as connection:
        rows = [{"gate_id": gate_id, "component": "motor"} for gate_id in GATES]
        connection.execute(sa.insert(historian.components), rows)
    return engine


def take(engine: Engine, folder: Path, text: str | bytes, now: datetime = NOW) -> dict[str, int]:
    file = folder / "orders.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with writing(engine) as connection:
        return dict(import_file(connection, file, now, CREW))


def kept(engine: Engine) -> list[tuple[object, ...]]:
    table = historian.maintenance
    with engine.connect() as connection:
        query = sa.select(*(table.c[name] for name in COLUMNS)).order_by(table.c.maintenance_id)
        return [tuple(row) for row in connection.execute(query)]


def test_the_records_of_a_file_are_kept_once_with_who_brought_them(with_parts: Engine, tmp_path: Path) -> None:
    first = take(with_parts, tmp_path, ORDERS)
    again = take(
        with_parts, tmp_path, "\ufeff" + ORDERS.replace("\n", "\r\n").replace("剥落\r\n", "剥落\n"), NOW + timedelta(days=1)
    )

    assert (first, again) == ({"new": 3}, {"known": 3})
    at = datetime(2026, 3, 5, 2, tzinfo=UTC)
    assert kept(with_parts) == [
        (GATES[0], "motor", "failure", "motor_bearing", at, None, None, None, "轴承, 剥落\n两行"),
        (GATES[0], "motor", "repair", None, at + timedelta(hours=1), None, None, None, None),
        (GATES[1], "", "inspection", None, at + timedelta(days=1), at + timedelta(hours=25), None, None, None),
    ]
    with with_parts.connect() as connection:
        audited = store.list_audit(connection)
    assert [(row["action"], row["actor"], row["subject"]) for row in audited] == [
        ("maintenance.recorded", "crew", gate_id) for gate_id in (GATES[1], GATES[0], GATES[0])
    ]


def test_a_work_order_handed_in_again_takes_its_end_and_its_finding(with_parts: Engine, tmp_path: Path) -> None:
    alert = open_alert(with_parts, GATES[0], "motor", datetime(2026, 3, 2, tzinfo=UTC))
    take(with_parts, tmp_path, ORDERS)

    closed = f"""gate_id,kind,started_at,component,ended_at,finding,alert_id
{GATES[0]},repair,2026-03-05T03:00:00Z,motor,2026-03-06T03:00:00Z,confirmed_degradation,{alert.alert_id}
{GATES[0]},failure,2026-03-05T02:00:00Z,motor,,,
"""

    assert take(with_parts, tmp_path, closed) == {"changed": 1, "known": 1}
    assert take(with_parts, tmp_path, closed) == {"known": 2}
    ended = datetime(2026, 3, 6, 3, tzinfo=UTC)
    assert kept(with_parts)[1][5:8] == (ended, "confirmed_degradation", alert.alert_id)
    assert kept(with_parts)[0][3] == "motor_bearing"  # what a later line leaves empty stays
    with with_parts.connect() as connection:
        newest = store.list_audit(connection)[0]
    assert (newest["action"], newest["after"]["finding"]) == ("maintenance.changed", "confirmed_degradation")


GOOD = {"gate_id": GATES[0], "component": "motor", "kind": "repair", "started_at": "2026-03-05T03:00:00Z"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gate_id": "DSH-S9-G9"}, "line 3: gate_id must be a known gate; got 'DSH-S9-G9'"),
        ({"gate_id": ""}, "line 3: gate_id must not be empty"),
        (
            {"kind": "overhaul"},
            "line 3: kind: must be 'failure', 'repair', 'replacement', 'lubrication' or 'inspection'; got 'over",
        ),
        ({"finding": "broken"}, "'not_inspected' or 'duplicate'; got 'broken'"),
        ({"component": "drum"}, "line 3: component must be empty or one of motor; got 'drum'"),
        ({"alert_id": "alr_none"}, f"line 3: alert_id must be an alert of gate '{GATES[0]}'; got 'alr_none'"),
        ({"ended_at": "2026-03-05T02:59:59Z"}, "ended_at must not lie before started_at; got 2026-03-05T02:59:59Z"),
        ({"started_at": "2026-03-20T00:05:01Z"}, "started_at must not lie in the future; got 2026-03-20T00:05:01Z"),
        ({"started_at": "2026-03-05 03:00"}, "started_at: an instant is RFC 3339 text with its offset, such as 2026-11-20T08:00"),
        ({"started_at": "2026-03-05 03:00"}, "got '2026-03-05 03:00'"),
        ({"failure_mode": "Worn out!"}, "line 3: failure_mode: "),
        ({"note": "x" * 1001}, "line 3: note: String should have at most 1000 characters"),
    ],
)
def test_one_wrong_cell_keeps_the_whole_file_out(
    change: dict[str, str], told: str, sqlite_engine: Engine, tmp_path: Path
) -> None:
    with writing(sqlite_engine) as connection:
        connection.execute(sa.insert(historian.components).values(gate_id=GATES[0], component="motor"))
    file = tmp_path / "orders.csv"
    with file.open("w", newline="") as stream:
        out = csv.DictWriter(stream, COLUMNS)
        out.writeheader()
        out.writerows([{**GOOD, "kind": "failure"}, {**GOOD, **change}])

    with pytest.raises(WorkError) as refusal:
        take(sqlite_engine, tmp_path, file.read_bytes())

    assert told in str(refusal.value)
    assert kept(sqlite_engine) == []


def test_all_wrong_lines_are_told_at_once(sqlite_engine: Engine, tmp_path: Path) -> None:
    lines = [f"{GATES[0]},{kind},2026-03-0{n}T00:00:00Z" for n, kind in enumerate(("failure", "broken", "repair"), start=1)]
    wrong = "\n".join(
        [
            "gate_id,kind,started_at",
            *lines,
            lines[2],
            '"X1\n",',
            "",
            "X2,repair,2026-03-01T00:00:00Z",
            f"{GATES[0]},repair,2026-03-09T00:00:00Z,oops",
        ]
    )

    with pytest.raises(WorkError) as refusal:
        take(sqlite_engine, tmp_path, wrong)

    told = str(refusal.value).splitlines()
    assert told[0] == "orders.csv: nothing was taken:"
    assert [line.partition(":")[0] for line in told[1:]] == [f"  - line {n}" for n in (3, 5, 6, 6, 9, 10)]
    assert "those of line 4; keep one" in told[2]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("gate_id,what\n", "orders.csv: must have the columns gate_id, kind, started_at; it lacks kind, started_at"),
        ("", "it lacks gate_id, kind, started_at"),
        ("gate_id,kind,started_at,note\nG,failure,x,轴承\n".encode("gbk"), "must be written in UTF-8"),
        ('gate_id,kind,started_at\n"G1,failure\n', "must be a CSV file with commas; unexpected end of data"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(content: str | bytes, told: str, sqlite_engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=told):
        take(sqlite_engine, tmp_path, content)


def command(engine: Engine, file: Path) -> Result:
    return CliRunner().invoke(main, ["maintenance", "import", str(file), "--database", url_of(engine)])


def test_the_command_says_what_it_took(sqlite_engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "orders.csv"
    file.write_text(f"gate_id,kind,started_at\n{GATES[0]},failure,2024-03-05T02:00:00Z\n")

    assert command(sqlite_engine, file).output == "1 records: 1 new, 0 changed, 0 known before\n"
    assert command(sqlite_engine, file).output == "1 records: 0 new, 0 changed, 1 known before\n"
    missing = command(sqlite_engine, tmp_path / "none.csv")
    assert (missing.exit_code, missing.output) == (2, f"sluicewatch: {tmp_path / 'none.csv'}: No such file or directory\n")

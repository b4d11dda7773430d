"""The command line as people meet it: help with an example, and one clear line with exit code 2 for what is wrong."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from pipeline import historian
from pipeline.adapters import Message
from pipeline.intake import Registry, store_messages
from service.cli import main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(
    ("path", "command"), list(commands(main)), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_help_with_an_example(path: tuple[str, ...], command: click.Command) -> None:
    answer = run(*path, "--help")

    assert answer.exit_code == 0
    assert f"sluicewatch {' '.join(path)}" in answer.output.replace("Usage: ", "", 1).split("\n", 1)[1]
    assert command.help


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("simulate",), "give --to FOLDER to write a dataset, or --mqtt URL"),
        (("simulate", "--to", "{tmp}/x", "--scenario", "ice_age"), "scenario must be one of heat_wave, flood_weeks"),
        (("simulate", "--to", "{tmp}/x", "--inject", "gate=X"), "inject: must be gate=G,mode=M,fail-at=T or"),
        (("simulate", "oracle", "{tmp}"), "has no truth.parquet: only what the simulator wrote knows its hidden state"),
        (("bench", "oracle", "--seeds", "one"), "seeds: must be whole numbers with commas between, as 101,102; got 'one'"),
        (("bench", "forecast", "--work", "{tmp}/w", "--part", "weather"), "part: must be all or one of fleets, core, budget"),
        (("simulate", "--to", "{tmp}/x", "--start", "yesterday"), "--start: a day is written like 2026-03-01; got 'yesterday'"),
        (("simulate", "--mqtt", "http://127.0.0.1:1", "--gates", "1", "--days", "1"), "mqtt"),
        (("simulate", "--mqtt", "mqtt://127.0.0.1:{closed}", "--gates", "1", "--days", "1"), "no broker can be reached"),
        (("import", "{tmp}/nowhere", "--database", "sqlite:///{tmp}/d.sqlite"), "does not exist"),
        (("migrate", "--database", "mysql://x"), "database: allowed are sqlite:///FILE and postgresql://"),
        (("migrate", "--database", "sqlite:///{tmp}/no/such/folder/d.sqlite"), "does not exist"),
        (("migrate", "--database", "postgresql://postgres@127.0.0.1:{closed}/x"), "database:"),
        (("score", "--database", "sqlite:///{tmp}/fresh.sqlite", "--registry", "{tmp}/r"), "sluicewatch migrate"),
        (("serve", "--database", "sqlite:///{tmp}/d.sqlite", "--port", "{taken}"), "port: cannot listen on 127.0.0.1:"),
        (("serve", "--database", "sqlite:///{tmp}/d.sqlite", "--public-url", "nonsense"), "public_url"),
        (("ingest", "--database", "sqlite:///{tmp}/d.sqlite", "--mqtt", "mqtt://127.0.0.1:{closed}"), "mqtt: cannot reach"),
        (("ingest", "--database", "sqlite:///{tmp}/d.sqlite", "--mqtt", "127.0.0.1"), "mqtt"),
        (("ingest", "--database", "sqlite:///{tmp}/d.sqlite", "--mapping", "{tmp}/none.toml"), "does not exist"),
        (("ingest", "--database", "sqlite:///{tmp}/d.sqlite", "--mapping", "{tmp}/d.sqlite"), "mapping: "),
        (("up", "--database", "sqlite:///{tmp}/d.sqlite", "--mapping", "{tmp}/d.sqlite"), "mapping: "),
        (("deliver", "--database", "sqlite:///{tmp}/d.sqlite", "--webhook-allow-cidrs", "ten"), "webhook_allow_cidrs"),
        (("demo", "--port", "{taken}"), "port: cannot listen on 127.0.0.1:"),
        (("demo", "--history-days", "3"), "45<=x<=365"),
        (("train", "{tmp}", "--name", "x", "--registry", "{tmp}/r"), "dataset.json is missing"),
        (("backtest", "{tmp}/n", "--from", "2024-01-01", "--to", "2024-02-01", "--out", "{tmp}/f"), "does not exist"),
        (("evaluate", "--dataset", "{tmp}/n", "--forecasts", "{tmp}/f"), "does not exist"),
        (("evaluate", "--dataset", "{tmp}/n", "--forecasts", "{tmp}/f", "--beside", "f"), "beside: write NAME=FILE; got f"),
        (("models", "show", "nobody", "--registry", "{tmp}/r"), "no model 'nobody'"),
        (("models", "tune", "{tmp}/n", "--registry", "{tmp}/r"), "does not exist"),
        (("models", "tune", "sample_data/basin", "--registry", "{tmp}/r"), "gate-years, 60 are needed to tune a threshold"),
        (("models", "rollback", "--registry", "{tmp}/r"), "no previous champion"),
        (("score", "--hold-share", "1.2", "--database", "sqlite:///{tmp}/d.sqlite"), "hold_share: Input should be less than or"),
        (("models", "release", "--reason", " ", "--database", "sqlite:///{tmp}/d.sqlite"), "reason: must say why; got nothing"),
        (("keys", "create", "x", "--scope", "everything", "--database", "sqlite:///{tmp}/d.sqlite"), "scopes: allowed are"),
    ],
)
def test_bad_input_gets_one_clear_line_and_exit_code_2(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    run("migrate", "--database", f"sqlite:///{tmp_path}/d.sqlite")
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: nobody answers there
        places = {"tmp": tmp_path, "taken": taken.getsockname()[1], "closed": closed.getsockname()[1]}

        answer = run(*(argument.format(**places) for argument in arguments))

    assert answer.exit_code == 2, answer.output
    assert told in answer.output
    assert "Traceback" not in answer.output
    if "dataset.json" not in told:  # a dataset lists all its gaps, one a line
        assert len(answer.output.strip().splitlines()) == 1


def test_a_mapping_is_refused_with_every_gap_before_anything_runs(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/d.sqlite"
    run("migrate", "--database", database)
    guide = (Path(__file__).parents[2] / "docs/guides/mapping.md").read_text(encoding="utf-8")
    (tmp_path / "mapping.toml").write_text(guide.partition("```toml")[2].partition("```")[0], encoding="utf-8")

    for command in ("ingest", "up"):
        answer = run(command, "--database", database, "--mapping", f"{tmp_path}/mapping.toml")

        assert answer.exit_code == 2
        assert answer.output.splitlines()[1:] == [
            f"  - publisher 1: gates: gate '{gate}' is not registered; import or register it first, or mend the name"
            for gate in ("DSH-S3-G1", "DSH-S3-G2")
        ]


def test_every_flag_of_a_process_can_be_an_environment_variable(tmp_path: Path) -> None:
    environment = {"SLUICEWATCH_DATABASE": f"sqlite:///{tmp_path}/by-environment.sqlite"}

    answer = CliRunner(env=environment).invoke(main, ["migrate"])

    assert answer.exit_code == 0
    assert (tmp_path / "by-environment.sqlite").is_file()


def test_a_key_is_shown_once_and_can_be_revoked(tmp_path: Path) -> None:
    database = ("--database", f"sqlite:///{tmp_path}/d.sqlite")
    run("migrate", *database)

    made = run("keys", "create", "duty room", "--scope", "alerts:read", *database).output.strip()
    key_id = made.split("_")[1]
    listed = run("keys", "list", *database).output
    revoked = run("keys", "revoke", key_id, *database)

    assert made.startswith("gk_")
    assert "duty room" in listed
    assert made not in listed
    assert revoked.exit_code == 0
    assert "revoked" in run("keys", "list", *database).output


def test_a_message_that_came_before_its_gate_is_taken_in_later(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/d.sqlite"
    run("migrate", "--database", url)
    topic, at = "sluicewatch/v1/DSH-S1/DSH-S1-G1/motor/telemetry", datetime(2026, 3, 1, 8, 15, tzinfo=UTC)
    payload = b'{"t": "2026-03-01T08:15:00Z", "values": {"velocity_rms": 1.31}, "units": {"velocity_rms": "mm/s"}}'
    engine = historian.connect(url)
    with historian.writing(engine) as connection:
        store_messages(connection, Registry(), [Message(topic, payload)], at)

    listed = run("quarantine", "list", "--payload", "--database", url).output.splitlines()
    before = run("quarantine", "retry", "--database", url).output
    with historian.writing(engine) as connection:
        connection.execute(sa.insert(historian.gates).values(gate_id="DSH-S1-G1", station_id="DSH-S1"))
    after = run("quarantine", "retry", "--reason", "unknown_gate", "--topic", "DSH-S1-G1", "--database", url).output

    assert listed[0].startswith(f"2026-03-01 08:15:00  unknown_gate  {topic}  ")
    assert listed[1:] == [f"    {payload.decode()}", "refused in all: 1 unknown_gate"]
    assert before == "0 of 1 messages can be used now and are stored; 1 unknown_gate\n"
    assert after == "1 of 1 messages can be used now and are stored\n"
    assert run("quarantine", "list", "--database", url).output == ""
    with engine.connect() as connection:
        (reading,) = historian.read_gate(connection, "DSH-S1-G1", 0, historian.to_ms(at) + 1).to_dict("records")
    assert reading == {"ts": at, "motor.velocity_rms": 1.31}
    engine.dispose()


def test_help_answers_without_the_heavy_libraries() -> None:
    code = "import sys, service.cli; print(sorted({'pandas', 'sklearn', 'fastapi', 'sqlalchemy'} & set(sys.modules)))"

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"

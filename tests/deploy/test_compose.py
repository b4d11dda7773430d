"""deploy/compose.yaml names only commands, flags and variables that the command line has, and no secret."""

from pathlib import Path
from typing import Any

import click
import pytest
import yaml  # type: ignore[import-untyped]  # comes with amqtt; its types would be one more package

from service.cli import main

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"].startswith("sluicewatch:")}


def test_the_four_processes_start_after_the_migration() -> None:
    assert set(OURS) == {"migrate", "ingest", "score", "deliver", "serve"}
    for name in set(OURS) - {"migrate"}:
        assert OURS[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


@pytest.mark.parametrize("name", OURS)
def test_a_process_is_started_as_the_command_line_understands_it(name: str) -> None:
    command, *arguments = OURS[name]["command"]
    assert command == name

    made = main.commands[command].make_context(command, arguments, resilient_parsing=False)

    assert made.params.get("health_port", made.params.get("port")) == (None if name == "migrate" else 8000)


@pytest.mark.parametrize("name", OURS)
def test_every_variable_set_for_a_process_is_one_of_its_own(name: str) -> None:
    known = {parameter.envvar for parameter in main.commands[name].params if isinstance(parameter, click.Option)}

    assert set(OURS[name].get("environment", {})) <= known


def test_the_file_holds_no_secret() -> None:
    text = (DEPLOY / "compose.yaml").read_text()

    assert "PASSWORD=" not in text
    assert "://" not in text

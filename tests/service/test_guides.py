"""The guides as an integrator follows them: where they begin and end, and that their commands are ours and do what they say."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline import historian
from service.cli import main

ROOT = Path(__file__).parents[2]
DIALECTS = ["iotda.md", "native.md", "sparkplug.md", "thingsboard.md"]


def blocks(page: str) -> list[str]:
    """The shell blocks of a page."""
    return re.findall(r"```sh\n(.*?)```", (ROOT / "docs/guides" / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", DIALECTS)
def test_the_page_of_a_dialect_begins_with_three_lines_and_ends_with_a_check(page: str) -> None:
    first, *_, last = blocks(page)

    assert len(first.splitlines()) == 3
    assert [line.split()[:2] for line in first.splitlines()[:2]] == [["sluicewatch", "migrate"], ["sluicewatch", "up"]]
    assert "mosquitto_pub" in first.splitlines()[2]
    assert last.startswith("sluicewatch check ")


@pytest.mark.parametrize("page", ["README.md", "mapping.md", *DIALECTS])
def test_every_command_of_a_page_is_understood(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fleet", "sample_data/basin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "mapping.toml").touch()
    monkeypatch.chdir(tmp_path)

    lines = [line for block in blocks(page) for line in block.splitlines() if "_pub" not in line]
    for line in lines:
        for command in re.findall(r"sluicewatch ([a-z][^#&]*)", line):
            name, *arguments = shlex.split(command)
            main.commands[name].make_context(name, arguments)


def test_four_small_files_register_the_gates(tmp_path: Path) -> None:
    [registering] = [block for block in blocks("README.md") if "mkdir fleet" in block]
    script = registering.replace("sluicewatch ", f"{sys.executable} -m service.cli ")

    subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, check=True)

    engine = historian.connect(f"sqlite:///{tmp_path}/.sluicewatch/sluicewatch.sqlite")
    with engine.connect() as connection:
        assert list(connection.scalars(sa.select(historian.gates.c.gate_id))) == ["KD-03-G1", "KD-03-G2"]
    engine.dispose()

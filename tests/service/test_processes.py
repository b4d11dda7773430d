"""Child processes that live and die together, with real ones."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from pipeline.errors import BadInput
from service.processes import ProcessDied, Processes


def test_a_child_that_refuses_its_settings_is_our_refusal_with_its_words(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("migrate", environment={"SLUICEWATCH_DATABASE": "mysql://nowhere"})

        with pytest.raises(BadInput, match="migrate ended with code 2: .*database: allowed are"):
            processes.wait_until_answers("http://127.0.0.1:9/livez", 30)


def test_a_child_that_just_ends_is_noticed(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("migrate", "--database", f"sqlite:///{tmp_path}/d.sqlite")

        with pytest.raises(ProcessDied, match="migrate ended with code 0"):
            processes.wait_until_answers("http://127.0.0.1:9/livez", 30)


def test_an_answer_that_does_not_come_in_time_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, Processes(tmp_path) as processes:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/livez"

        with pytest.raises(ProcessDied, match="no answer from"):
            processes.wait_until_answers(url, 0.1)


def test_all_children_end_with_the_block(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/d.sqlite"
    with Processes(tmp_path) as processes:
        processes.start("migrate", "--database", database)
        while not (tmp_path / "d.sqlite").exists():
            time.sleep(0.05)
        processes.stop()
        processes.start("deliver", "--database", database)
        [child] = [entry.process for entry in processes._children]

    assert child.poll() is not None
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)

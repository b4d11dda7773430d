"""The whole way with real parts: simulated gateways, a real Mosquitto, four processes, a real HTTP receiver, signed webhooks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = [sys.executable, "-m", "service.cli", "demo"]


@pytest.mark.broker
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("mosquitto_program")
def test_a_true_signed_webhook_arrives_and_no_message_is_lost() -> None:
    ended = subprocess.run([*DEMO, "--exit-when-delivered"], capture_output=True, text=True, timeout=580)

    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert summary["broker"] == "mosquitto"
    assert summary["messages_published"] == summary["messages_acknowledged"] == summary["messages_stored"] > 10_000
    assert summary["readings_published"] == summary["readings_stored"]
    assert summary["hits"] >= 1
    assert summary["false_alerts"] <= 2
    assert 0 < summary["first_hit"]["lead_time_d"] <= 21
    assert summary["first_hit"]["alert_id"].startswith("alr_")


@pytest.mark.timeout(120)
def test_ctrl_c_ends_every_process_of_the_demo(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("key for console"):
            break
    running = children_of(demo.pid)

    demo.send_signal(signal.SIGINT)
    told, _ = demo.communicate(timeout=60)

    assert len(running) >= 5  # the broker and four processes
    assert "every process of the demo was stopped" in told
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in running) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [pid for pid in running if Path(f"/proc/{pid}").exists()] == []
    assert list(tmp_path.iterdir()) == []


def children_of(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found

"""The small health port of a process without other HTTP."""

import urllib.error
import urllib.request

import pytest

from pipeline.errors import BadInput
from pipeline.health import HealthServer


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_it_says_what_is_wrong_and_recovers() -> None:
    faults = ["storage: disk is full"]
    with HealthServer(0, live=list, ready=lambda: faults) as server:
        before = get(server.port, "/readyz")
        faults.clear()
        after = get(server.port, "/readyz")
        live = get(server.port, "/livez?verbose")
        elsewhere = get(server.port, "/")

    assert before == (503, "storage: disk is full\n")
    assert after == live == (200, "ok\n")
    assert elsewhere[0] == 404


def test_metrics_are_in_the_text_format_of_prometheus() -> None:
    with HealthServer(0, live=list, ready=list) as server:
        status, text = get(server.port, "/metrics")

    assert status == 200
    assert "# TYPE python_info gauge" in text


def test_a_port_in_use_is_one_clear_line() -> None:
    with HealthServer(0, live=list, ready=list) as first, pytest.raises(BadInput, match=r"^health port: .*\d+; "):
        HealthServer(first.port, live=list, ready=list)

"""A broker of our own for the demo and the tests: Mosquitto as a child process, else amqtt, which is pure Python.

It listens on loopback only and lets anyone on this machine in; the broker for a site is `deploy/mosquitto.conf`, which
shares the limits below. It will not serve a network, and it will not outlive the process that started it.
"""

import asyncio
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pipeline.errors import BadInput

Kind = Literal["mosquitto", "amqtt"]

HOST = "127.0.0.1"
START_SECONDS = 15.0
STOP_SECONDS = 10.0

# Why each: docs/decisions/0003-broker-limits.md. deploy/mosquitto.conf has the same lines; a test compares them.
LIMITS = {
    "persistence": "true",
    "autosave_interval": "1",
    "autosave_on_changes": "false",
    "max_inflight_messages": "0",
    "max_queued_messages": "500000",
    "max_queued_bytes": "536870912",
    "message_size_limit": "1048576",
}

CANNOT: dict[Kind, str] = {
    "mosquitto": "",
    "amqtt": (
        "no MQTT 5, no redelivery of unacknowledged messages, nothing kept for a client that is away, for one that has just "
        "left, or over a restart; for those install Mosquitto (Debian: apt-get install mosquitto)"
    ),
}

# Runs before the real program, in its process: asks Linux to kill it when the thread that started it ends, even by
# kill -9. A parent that was gone before the request counts as dead too. (Python warns of preexec_fn, the shorter way,
# where threads run.)
_TIE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


class BrokerStartError(BadInput):
    """The broker could not be started: the port is taken, or neither broker is installed."""


def tied(command: Sequence[str]) -> list[str]:
    """Return the command so wrapped that on Linux its process dies with the thread that starts it; else unchanged."""
    if not sys.platform.startswith("linux"):
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *command]


def free_port() -> int:
    """Return a loopback TCP port that nobody used a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something listens on this loopback port."""
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex((HOST, port)) == 0


def mosquitto_path() -> str | None:
    """Return where Mosquitto is on this machine; Debian keeps it in a folder that is not on an ordinary user's PATH."""
    return shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def configuration(port: int, folder: Path) -> str:
    """The Mosquitto configuration of demo and tests: our limits, one loopback listener, its state in `folder`."""
    lines = [
        f"listener {port} {HOST}",
        "allow_anonymous true",  # only because nothing but this machine can reach the listener
        f"user {getpass.getuser()}",  # started by root it would become another user, who may not write into the folder
        f"persistence_location {folder}/",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        *(f"{name} {value}" for name, value in LIMITS.items()),
    ]
    return "\n".join(lines) + "\n"


class Broker:
    """One running broker; as a context manager it stops at the end of the block. Made by `start_broker`."""

    def __init__(self, kind: Kind, folder: Path, port: int) -> None:
        self.kind: Kind = kind
        self.folder = folder
        self.port = port
        self.url = f"mqtt://{HOST}:{port}"
        self.cannot = CANNOT[kind]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the child process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the child process and return when it accepts connections."""
        log = self.folder / f"{self.kind}.log"
        with log.open("ab") as output:
            # A session of its own: Ctrl-C reaches us alone, and the broker stays until its clients have said goodbye.
            self._process = subprocess.Popen(
                tied(self._command()),
                cwd=Path(__file__).parents[1],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.port):
            if not self.running or time.monotonic() > deadline:
                self.kill()
                lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
                raise BrokerStartError(f"broker: {self.kind} did not start on {HOST}:{self.port}: {lines[-1]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the broker in order: Mosquitto writes its queues to the folder first."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the broker as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start again on the same port with the same folder, after an orderly stop if it still runs."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def _command(self) -> list[str]:
        if self.kind == "amqtt":
            return [sys.executable, "-m", "service.broker", str(self.port)]
        path = mosquitto_path()
        if path is None:
            raise BrokerStartError("broker: Mosquitto is not on this machine (Debian: apt-get install mosquitto)")
        file = self.folder / "mosquitto.conf"
        file.write_text(configuration(self.port, self.folder))
        return [path, "-c", str(file)]

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start_broker(folder: Path, port: int | None = None, kind: Kind | None = None) -> Broker:
    """Start a broker on `port` (else a free one) with its state in `folder`: of `kind`, else Mosquitto if it is there.

    Call it from a thread that lives as long as the broker is needed. Raises BrokerStartError when the port is taken.
    """
    if kind is None:
        kind = "mosquitto" if mosquitto_path() else "amqtt"
    if kind == "amqtt" and find_spec("amqtt") is None:
        raise BrokerStartError("broker: neither Mosquitto nor amqtt is here; apt-get install mosquitto, or pip install amqtt")
    if port is None:
        port = free_port()
    elif answers(port):
        raise BrokerStartError(f"broker: port {port} on {HOST} is in use by another program; choose a free one")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    broker = Broker(kind, folder, port)
    broker.start()
    return broker


async def _serve_amqtt(port: int) -> None:
    from amqtt.broker import Broker as PurePythonBroker

    broker = PurePythonBroker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve_amqtt(int(sys.argv[1])))

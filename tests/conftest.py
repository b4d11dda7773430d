"""The far side of our tests: a real Mosquitto and a real PostgreSQL, started for the tests and ended with them.

What this machine lacks skips with its reason; under CI=true it fails, so that nothing goes untested unseen.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when scikit-learn is imported

import psycopg
import pytest
from hypothesis import settings

from service.broker import Broker, free_port, mosquitto_path, start_broker, tied

# how long an example takes says how busy the machine is, no more
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")

DATABASE_NUMBERS = count(1)

# PostgreSQL refuses root, so it runs as Debian's user `postgres`. Dying with the tests is asked for after the change of
# user, which would cancel it.
AS_POSTGRES = """
import ctypes, os, pwd, sys
user = pwd.getpwnam("postgres")
os.initgroups(user.pw_name, user.pw_gid); os.setgid(user.pw_gid); os.setuid(user.pw_uid)
ctypes.CDLL(None).prctl(1, 9)
os.execv(sys.argv[1], sys.argv[1:])
"""


def missing(reason: str) -> NoReturn:
    """Skip for the reason, or fail where everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def mosquitto_program() -> str:
    """Where Mosquitto is."""
    return mosquitto_path() or missing("Mosquitto is not on this machine (Debian: apt-get install mosquitto)")


@pytest.fixture
def mosquitto(tmp_path: Path, mosquitto_program: str) -> Iterator[Broker]:
    """A Mosquitto of this test's own with our configuration: `.url`, `.stop()`, `.kill()`, `.start()`, `.restart()`."""
    with start_broker(tmp_path / "mosquitto", kind="mosquitto") as broker:
        yield broker


class Postgres:
    """A throw-away PostgreSQL cluster on loopback that can be stopped and started again; `address` has no database name."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._data, self._log, self._programs, self._port = folder / "data", folder / "log", programs, free_port()
        self.address = f"postgresql://postgres@127.0.0.1:{self._port}"
        create = [f"{programs}/initdb", "--pgdata", str(self._data), "--username=postgres", "--auth=trust", "--encoding=UTF8"]
        subprocess.run(as_postgres([*create, "--no-locale", "--no-sync"]), cwd=folder, check=True, capture_output=True)
        self.start()

    def start(self) -> None:
        """Return when it answers."""
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        serve = [f"{self._programs}/postgres", "-D", str(self._data), "-p", str(self._port)]
        serve += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                as_postgres(serve), cwd=self._data.parent, stdout=output, stderr=output, start_new_session=True
            )
        try:
            wait_for_postgres(self.address, self._process, self._log)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Return when it has ended."""
        self._process.send_signal(signal.SIGINT)  # PostgreSQL's "fast": it does not wait for its clients
        self._process.wait(30)


@contextmanager
def postgres_cluster() -> Iterator[Postgres]:
    """A cluster that is there until the end of the block."""
    programs = postgres_programs()
    if programs is None:
        missing("no PostgreSQL server is on this machine (Debian: apt-get install postgresql)")
    # Not pytest's own folder: the user `postgres` may not enter it.
    folder = Path(tempfile.mkdtemp(prefix="sluicewatch-postgres-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        server = Postgres(folder, programs)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of the cluster that all tests share. Tests want `postgres_url`."""
    with postgres_cluster() as server:
        yield server.address


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A cluster of this test's own: `.address`, `.stop()`, `.start()`."""
    with postgres_cluster() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of a fresh, empty PostgreSQL database of this test's own."""
    name = f"test_{next(DATABASE_NUMBERS)}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"{postgres_server}/{name}"


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's server programs; Debian keeps them off the PATH, one folder a version."""
    found = shutil.which("postgres")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return versions[-1] if versions else None


def as_postgres(command: Sequence[str]) -> list[str]:
    """The command so wrapped that it dies with the tests, and does not run as root."""
    if os.geteuid() == 0:
        return [sys.executable, "-I", "-S", "-c", AS_POSTGRES, *command]
    return tied(command)


def wait_for_postgres(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server answers; fail with its own words when it does not."""
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(f"{address}/postgres", connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start: {log.read_text(errors='replace').strip()}")
            time.sleep(0.05)

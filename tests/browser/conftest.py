"""A real browser before the real application: headless Chromium, and a server on loopback where somebody is signed in."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from sqlalchemy.engine import Engine

from service.console import session
from tests.service.api import fleet
from tests.service.api.conftest import alert_ids, filled, fleet_engine, registry

__all__ = ["alert_ids", "filled", "fleet_engine", "registry"]

QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--window-size=1366,768",
]


@dataclass
class Site:
    """The application on a port of its own; `asked` has every path that the browser asked for.

    `broken_after` makes every later request for a page fail, as if the server had gone.
    """

    port: int
    asked: list[str] = field(default_factory=list)
    broken_after: int = 10_000


@pytest.fixture
def site(fleet_engine: Engine, registry: Path) -> Iterator[Site]:
    """The filled fleet's console, where each request comes with a live session."""
    app = fleet.make_app(fleet_engine, registry)
    key = fleet.make_key(fleet_engine)
    cookie = f"{session.COOKIE}={session.seal(key.key_id, fleet.NOW, b'k' * 32)}"
    running = Site(port=0)

    async def signed_in(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            running.asked.append(scope["path"])
            scope["headers"] = [*scope["headers"], (b"cookie", cookie.encode())]
            if len([path for path in running.asked if not path.startswith("/static")]) > running.broken_after:
                await send({"type": "http.response.start", "status": 503, "headers": []})
                await send({"type": "http.response.body"})
                return
        await app(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(signed_in, port=0, log_level="warning", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    running.port = server.servers[0].sockets[0].getsockname()[1]
    yield running
    server.should_exit = True
    thread.join()


@dataclass(frozen=True)
class Seen:
    """What the browser made of a page: its elements after the scripts ran, and what it complained about."""

    dom: str
    complaints: list[str]


Browse = Callable[..., Seen]


@pytest.fixture
def browse(site: Site, tmp_path: Path) -> Browse:
    """Open a path in Chromium, which can reach this machine only, let `seconds` of its own time pass, and look."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        reason = "Chromium is not on this machine (Debian: apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)

    def look(path: str, *, seconds: float = 3, screenshot: Path | None = None) -> Seen:
        wanted = f"--screenshot={screenshot}" if screenshot else "--dump-dom"
        command = [
            program,
            *QUIET,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--virtual-time-budget={seconds * 1000:.0f}",
            wanted,
            f"http://127.0.0.1:{site.port}{path}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return Seen(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])

    return look

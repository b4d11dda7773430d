"""The small port of a process that has no other HTTP: ``/livez``, ``/readyz`` and ``/metrics``.

It answers in a thread of its own, so that a process stuck in its work is seen to be stuck. It decides nothing: the
process hands it two functions that return what is wrong, in plain words.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import prometheus_client

from pipeline.errors import BadInput

Check = Callable[[], Sequence[str]]
"""Returns what is wrong, one sentence each; nothing when all is well."""


class HealthServer:
    """Serve the three paths on `host`:`port` until the end of the ``with`` block; port 0 takes a free one.

    Parameters
    ----------
    port : int
    live : Check
        Would a restart help? Such faults make ``/livez`` answer 503.
    ready : Check
        Is the work being done? Such faults make ``/readyz`` answer 503.
    host : str
        The address to listen on; this machine only, unless told otherwise.

    Raises
    ------
    BadInput
        The port cannot be had.
    """

    def __init__(self, port: int, *, live: Check, ready: Check, host: str = "127.0.0.1") -> None:
        checks = {"/livez": live, "/readyz": ready}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._answer(200, prometheus_client.CONTENT_TYPE_LATEST, prometheus_client.generate_latest())
                elif path in checks:
                    faults = checks[path]()
                    text = "".join(f"{fault}\n" for fault in faults) or "ok\n"
                    self._answer(503 if faults else 200, "text/plain; charset=utf-8", text.encode())
                else:
                    self._answer(404, "text/plain; charset=utf-8", b"here are /livez, /readyz and /metrics\n")

            def _answer(self, status: int, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives it
                """Say nothing: a probe every second is not news."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise BadInput(f"health port: cannot listen on {host}:{port}; {error.strerror}") from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

"""Child processes of `sluicewatch up` and `demo`: started together, watched, ended together. Knows nothing of what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.errors import BadInput, SluicewatchError
from service.broker import tied

STOP_SECONDS = 15.0


class ProcessDied(SluicewatchError):
    """A child process ended though nobody asked it to; the message holds its last words."""


@dataclass(slots=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path | None


class Processes:
    """A set of `sluicewatch` commands that live and die together; a context manager that ends them all.

    Parameters
    ----------
    log_folder : Path, optional
        Where each command's output goes; without it they write where we write.
    """

    def __init__(self, log_folder: Path | None = None) -> None:
        self._log_folder = log_folder
        self._children: list[_Child] = []

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Start ``sluicewatch <arguments>``; on Linux it dies with the thread that calls this, even by ``kill -9``."""
        name = arguments[0]
        command = tied([sys.executable, "-m", "service.cli", *arguments])
        log = None if self._log_folder is None else self._log_folder / f"{name}.log"
        output = None if log is None else log.open("ab")
        # a session of its own: Ctrl-C reaches us alone, and we end the children in the right order
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        if output is not None:
            output.close()
        self._children.append(_Child(name, process, log))

    def check(self) -> None:
        """Raise `ProcessDied` when a child is gone, `BadInput` when it refused its settings."""
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                lines = _last_lines(child.log)
                # 2 is how a command refuses what a person gave it; so it is our refusal, too
                kind = BadInput if code == 2 else ProcessDied
                raise kind(f"{child.name} ended with code {code}" + (f": {lines}" if lines else ""))

    def wait_until_answers(self, url: str, seconds: float) -> None:
        """Return when `url` answers 200; raise `ProcessDied` when a child ends first or the time runs out."""
        deadline = time.monotonic() + seconds
        while not _answers(url):
            self.check()
            if time.monotonic() > deadline:
                raise ProcessDied(f"no answer from {url} within {seconds:g} s")
            time.sleep(0.1)

    def stop(self, names: Sequence[str] | None = None) -> None:
        """End the named children (default: all), the last started first; what does not end in 15 s is killed."""
        ending = [child for child in reversed(self._children) if names is None or child.name in names]
        for child in ending:
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        for child in ending:
            try:
                child.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self._children = [child for child in self._children if child not in ending]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _last_lines(log: Path | None, lines: int = 3) -> str:
    if log is None or not log.exists():
        return ""
    return " / ".join(log.read_text(errors="replace").strip().splitlines()[-lines:])

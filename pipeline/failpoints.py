"""Named points at which a test ends the process as a power cut would. Nothing happens at them unless the environment names one.

``SLUICEWATCH_FAILPOINT=ingest.before_commit:3`` kills the process at the third time it comes by. Only tests set it.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """End the process here, if this is the point and the time that was asked for."""
    asked, _, nth = os.environ.get("SLUICEWATCH_FAILPOINT", "").partition(":")
    if asked == name:
        _passed[name] += 1
        if _passed[name] == int(nth or 1):
            os.kill(os.getpid(), signal.SIGKILL)

"""What becomes of processes that a test has others start."""

from __future__ import annotations

import os
from pathlib import Path


def alive(number: int) -> bool:
    """A process that has ended but was not collected is not alive."""
    status = Path(f"/proc/{number}/stat")
    if not status.exists():
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return False
        return not Path("/proc/self").exists()
    return status.read_text().rpartition(")")[2].split()[0] not in ("Z", "X")

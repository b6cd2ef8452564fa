"""Memory that a process has in RAM, as Linux counts it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from monitoring.errors import MonitorError


def resident_bytes(process: int | Path) -> int | None:
    """Bytes of a process in RAM, mapped files included; GPU memory is not in it.

    Args:
        process: its id, or a file that holds it: a server that is restarted has another.

    Returns:
        ``None`` where no such process runs.
    """
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        pid = process if isinstance(process, int) else int(process.read_text(encoding="ascii"))
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def read_process(text: str) -> int | Path:
    """A process as the command line names it: an id, or a file that holds one.

    Raises:
        MonitorError: no such process runs, or this system does not say.
    """
    if not Path("/proc/self/statm").is_file():
        raise MonitorError("memory of a process", "is read from /proc, which Linux has", "Leave --pid out")
    process = int(text) if text.isdecimal() else Path(text)
    if resident_bytes(process) is None:
        raise MonitorError(
            f"process {text}", "does not run", "Name the server's process id, or a file that holds it"
        )
    return process

"""Memory that a process has in RAM, as Linux counts it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from paretune.monitoring.errors import MonitorError


def resident_bytes(process: int | Path) -> int | None:
    """Bytes of a process in RAM, mapped files included; GPU memory is not in it.

    Args:
        process: its id, or a file that holds it: a server that is restarted has another.

    Returns:
        ``None`` where no such process runs, or the file cannot be read: whoever restarts the server may be writing it.
    """
    with suppress(OSError, ValueError):
        fields = Path(f"/proc/{_id(process)}/statm").read_text(encoding="ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def read_process(text: str) -> int | Path:
    """A process as the command line names it: an id, or a file that holds one.

    Raises:
        MonitorError: it is neither, no such process runs, or this system does not say.
    """
    if not Path("/proc/self/statm").is_file():
        raise MonitorError("memory of a process", "is read from /proc, which Linux has", "Leave --pid out")
    try:
        process = int(text) if text.isdecimal() else Path(text)
        _id(process)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise MonitorError(
            f"process {text[:_SHOWN]!r}", f"is neither an id nor a file that holds one ({said})", _REMEDY
        ) from error
    if resident_bytes(process) is None:
        raise MonitorError(f"process {text}", "does not run", _REMEDY)
    return process


_REMEDY = "Name the server's process id, or a file that holds it"
_SHOWN = 80


def _id(process: int | Path) -> int:
    return process if isinstance(process, int) else int(process.read_text(encoding="ascii"))

"""Files that appear whole: written to a temporary name in the same folder, then renamed."""

from __future__ import annotations

import os
from pathlib import Path

from spaces.errors import RunError


def write_whole(path: Path, text: str) -> Path:
    """Write ``text`` (UTF-8) to ``path``, which is returned; on failure what was there stays.

    Raises:
        RunError: the folder is missing or cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(
            f"file {path}",
            f"cannot be written ({error.strerror or error})",
            "Free space or choose another folder; what was there before is untouched",
        ) from error
    return path

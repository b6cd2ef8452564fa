"""Folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paretune.spaces.errors import EngineError


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to write into; it takes the name when the block ends without an error.

    Raises:
        EngineError: ``folder`` is there already and not empty, or the disk refuses.
    """
    refuse_occupied(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        yield partial
        _give_usual_modes(partial)
        partial.replace(folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _give_usual_modes(folder: Path) -> None:
    """Temporary folders, and files of safetensors, are for their owner alone; who serves an export may be another."""
    mask = os.umask(0o077)
    os.umask(mask)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():  # what it leads to is not ours
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _cannot_write(folder: Path, error: OSError) -> EngineError:
    return EngineError(
        f"export to {folder}",
        f"cannot be written ({error.strerror or error})",
        "Free space or name another folder",
    )


def refuse_occupied(folder: Path) -> None:
    """Refuse to write where something is.

    Raises:
        EngineError: it is a file, or a folder that is not empty.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise EngineError(
            f"export folder {folder}", "is there already and not empty", "Name another folder, or delete it"
        )

"""Folders that are written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spaces.errors import EngineError


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
        partial.chmod(0o755)
        partial.replace(folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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

"""The run folder: one process at a time, tied to one model, text and bank."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from paretune.spaces.errors import RunError, StorageBusyError

_LOCK = "run.lock"
_FINGERPRINT = "fingerprint.json"


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock goes with the process, however it ends.

    A folder that was made for it and holds nothing else is gone afterwards: what was refused leaves no trace.

    Raises:
        RunError: there can be no such folder, or it cannot be written to.
        StorageBusyError: another process has it.
    """
    import fcntl

    made = not folder.exists()
    make_folder(folder)
    try:
        opened = (folder / _LOCK).open("a+", encoding="ascii")
    except OSError as error:
        raise cannot_write(folder / _LOCK, error) from error
    with opened as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            raise StorageBusyError(
                f"run folder {folder}",
                f"is in use by process {handle.read().strip() or 'unknown'}",
                "Wait for it, or choose another folder with --out",
            ) from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        try:
            yield
        finally:
            if made and [file.name for file in folder.iterdir()] == [_LOCK]:
                (folder / _LOCK).unlink()
                folder.rmdir()


def tie_run_folder(folder: Path, fingerprint: Mapping[str, str]) -> None:
    """Tie the folder to a model, texts, bank and space, or check that it is tied to the same.

    Raises:
        RunError: it holds a run of something else; names what differs.
    """
    path = folder / _FINGERPRINT
    wanted = dict(sorted(fingerprint.items()))
    if not path.exists():
        write_whole(path, json.dumps(wanted, indent=2) + "\n")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    _refuse_other(folder, found, wanted, {*found, *wanted})


def check_run_folder(folder: Path, known: Mapping[str, str]) -> None:
    """Check a folder that is tied already by the part of its fingerprint that is ``known``; tie nothing.

    Raises:
        RunError: as :func:`tie_run_folder`, for a key of ``known``.
    """
    path = folder / _FINGERPRINT
    if path.exists():
        _refuse_other(folder, json.loads(path.read_text(encoding="utf-8")), known, known)


def _refuse_other(
    folder: Path, found: Mapping[str, str], wanted: Mapping[str, str], keys: Iterable[str]
) -> None:
    different = sorted(key for key in keys if found.get(key) != wanted.get(key))
    if different:
        key = different[0]
        raise RunError(
            f"run folder {folder}",
            f"belongs to another {key} ({str(found.get(key))[:12]}, now {str(wanted.get(key))[:12]})",
            "Choose another folder with --out, or remove this one",
        )


def make_folder(folder: Path) -> None:
    """Make a folder and those that it lies in, where they are not there.

    Raises:
        RunError: something else is in the way, or the disk refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def write_whole(path: Path, text: str) -> Path:
    """Write ``text`` (UTF-8) to ``path``, which is returned; on failure what was there stays.

    Raises:
        RunError: the disk is full, or the folder is missing or cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from error
    return path


def append_line(path: Path, line: str) -> None:
    """Add a line (ASCII, without its end) to a file, and see it to the disk.

    Raises:
        RunError: the disk is full; nothing of the line stays in the file, nor does it after an interrupt.
    """
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="ascii") as handle:
            handle.write(line + "\n")
            handle.flush()
            os.fsync(handle.fileno())
    except BaseException as error:
        # Interrupted in between, the file would have a line that this process does not know.
        if path.exists():
            os.truncate(path, size)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def drop_torn_line(path: Path) -> None:
    """Cut what a process that was killed, or found the disk full, left after the last whole line."""
    raw = path.read_bytes()
    whole = raw.rfind(b"\n") + 1
    if whole < len(raw):
        os.truncate(path, whole)


def cannot_write(path: Path, error: OSError) -> RunError:
    """The refusal for a disk that is full or read-only, and for a place below a file."""
    return RunError(
        str(path),
        f"cannot be written ({error.strerror or error})",
        "Free space or choose another folder with --out",
    )

"""The run folder: one process at a time, tied to one model, text and bank."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paretune.spaces.errors import RunError, StorageBusyError
from paretune.spaces.files import (
    FileKind,
    absent_folders,
    cannot_write,
    make_folder,
    read_object,
    remove_empty,
    write_whole,
)

OF = "of"
"""Name of the model as it was given: told where a folder is refused, but the same model may have another name."""
_HASH = re.compile(r"[0-9a-f]{12,}")
_LOCK = "run.lock"
_FINGERPRINT = "fingerprint.json"
_TIE = FileKind("fingerprint", RunError, "Choose another folder with --out, or remove this one")


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock goes with the process, however it ends.

    Folders that were made for it and hold nothing else are gone afterwards: what was refused leaves no trace.

    Raises:
        RunError: there can be no such folder, or it cannot be written to.
        StorageBusyError: another process has it.
    """
    import fcntl

    made = absent_folders(folder)
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
        # The number only tells people who it is: on a full disk the lock stands without it.
        with suppress(OSError):
            handle.truncate(0)
            os.write(handle.fileno(), str(os.getpid()).encode("ascii"))
        try:
            yield
        finally:
            if made and [file.name for file in folder.iterdir()] == [_LOCK]:
                (folder / _LOCK).unlink()
                remove_empty(made)


def refuse_other_folder(folder: Path) -> None:
    """Refuse a folder that holds something and is of no run.

    Raises:
        RunError: it is.
    """
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if names and not names & {_LOCK, _FINGERPRINT, "run.json", "bank"}:
        raise RunError(
            f"folder {folder}", "holds something that no search wrote", "Choose another folder with --out"
        )


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
    found = read_object(path, _TIE)
    _refuse_other(folder, found, wanted, {*found, *wanted})


def kept_fingerprint(folder: Path) -> dict[str, str]:
    """What the folder is tied to; nothing where it is not tied yet.

    Raises:
        RunError: the file is not what was written.
    """
    path = folder / _FINGERPRINT
    return {key: str(value) for key, value in read_object(path, _TIE).items()} if path.exists() else {}


def check_run_folder(folder: Path, known: Mapping[str, str]) -> None:
    """Check a folder that is tied already by the part of its fingerprint that is ``known``; tie nothing.

    Raises:
        RunError: as :func:`tie_run_folder`, for a key of ``known``.
    """
    path = folder / _FINGERPRINT
    if path.exists():
        _refuse_other(folder, read_object(path, _TIE), known, known)


def _refuse_other(
    folder: Path, found: Mapping[str, Any], wanted: Mapping[str, str], keys: Iterable[str]
) -> None:
    different = sorted(key for key in keys if key != OF and found.get(key) != wanted.get(key))
    if different:
        of = f" (of {found.get(OF)}, now {wanted.get(OF)})" if found.get(OF) != wanted.get(OF) else ""
        raise RunError(
            f"run folder {folder}{of}",
            f"belongs to another {' and another '.join(_told(key, found, wanted) for key in different)}",
            "Choose another folder with --out, or remove this one",
        )


def _told(key: str, found: Mapping[str, Any], wanted: Mapping[str, str]) -> str:
    """What differs, with both values where they are words and no hashes."""
    both = [str(values.get(key, "none")) for values in (found, wanted)]
    hashes = any(_HASH.fullmatch(value) for value in both)
    return key if hashes or not all(both) else f"{key} ({both[0]}, now {both[1]})"

"""Every file is read and written here: ours, those of others, and folders that appear whole.

Reading refuses, and never fails otherwise: what is absent, unreadable, a folder, too large, no text, no JSON or YAML,
nested without end, of another kind or of another version becomes the error of its :class:`FileKind`, with value, rule
and remedy. Writing goes to a temporary name beside the file, which takes the place of the old content at once; what
was there stays where the disk is full.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from pydantic import ValidationError

from paretune.spaces.errors import EngineError, ModelError, ParetuneError, RunError
from paretune.spaces.schema import Frozen, sealed, unsealed

Value = TypeVar("Value", bound=Frozen)

WRONG_CONTENT = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What code that takes content for granted raises when it is another."""

_CHUNK_BYTES = 1 << 20
_DEPTH = 100
_NODES = 10_000_000
_YAML_NODES = 100_000
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class FileKind:
    """How files of one kind are called and refused.

    Attributes:
        what: it is called, e.g. ``"run file"``.
        error: class of the refusal.
        remedy: what to do about a file that cannot be used. Text that was typed is read like a file's: its place is the
            text then.
        largest: bytes that are read at most.
    """

    what: str
    error: type[ParetuneError]
    remedy: str
    largest: int = 1 << 30

    def refusal(self, file: Path | str, reason: str) -> ParetuneError:
        """The error that says why a file cannot be used."""
        return self.error(f"{self.what} {file}", reason, self.remedy)


_FILE = FileKind("file", RunError, "Check the path")
CONFIGURATION = FileKind(
    "configuration", ModelError, "Name a complete folder in Hugging Face format", 1 << 26
)
"""``config.json`` of a model."""


def read_bytes(file: Path, kind: FileKind) -> bytes:
    """All of a file.

    Raises:
        ParetuneError: of the kind; it is absent, a folder, unreadable or larger than allowed.
    """
    try:
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size <= kind.largest:
                return stream.read()
            content = b"" if status.st_size else _read_piped(stream, kind.largest)
    except (OSError, ValueError) as error:  # a ValueError is a path with a null byte
        reason = getattr(error, "strerror", None) or str(error)
        raise kind.refusal(file, f"cannot be read ({reason})") from error
    if len(content) > kind.largest or status.st_size > kind.largest:
        raise kind.refusal(file, f"is larger than {kind.largest:,} bytes")
    return content


def _read_piped(stream: IO[bytes], largest: int) -> bytes:
    """What a pipe or a device gives, up to one chunk more than allowed."""
    content = bytearray()
    while len(content) <= largest and (part := stream.read(_CHUNK_BYTES)):
        content += part
    return bytes(content)


def decode_text(content: bytes, file: Path | str, kind: FileKind) -> str:
    """UTF-8 as text; a byte order mark is no part of it.

    Raises:
        ParetuneError: of the kind; it is no UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind.refusal(file, f"is no UTF-8 text (byte {error.start})") from error


def read_text(file: Path, kind: FileKind) -> str:
    """A text file, whole.

    Raises:
        ParetuneError: of the kind; as :func:`read_bytes` and :func:`decode_text`.
    """
    return decode_text(read_bytes(file, kind), file, kind)


def parse_json(text: str | bytes, file: Path | str, kind: FileKind) -> Any:
    """JSON that anybody wrote.

    Raises:
        ParetuneError: of the kind; it is no JSON, nested deeper than a hundred values, or holds half a character.
    """
    text = decode_text(text, file, kind) if isinstance(text, bytes) else text
    try:
        found = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise kind.refusal(file, "is not JSON (half of a surrogate pair)") from error
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        raise kind.refusal(file, f"is not JSON ({'nested too deeply' if deep else error})") from error
    _check_extent(found, file, kind, _NODES)
    return found


def read_json(file: Path, kind: FileKind) -> Any:
    """A file of JSON that anybody wrote.

    Raises:
        ParetuneError: of the kind; as :func:`read_bytes` and :func:`parse_json`.
    """
    return parse_json(read_bytes(file, kind), file, kind)


def read_object(file: Path, kind: FileKind) -> dict[str, Any]:
    """A file that holds a JSON object.

    Raises:
        ParetuneError: of the kind; as :func:`read_json`, or it holds something else.
    """
    return _as_object(read_json(file, kind), file, kind)


def parse_yaml(text: str, file: Path | str, kind: FileKind) -> Any:
    """YAML of the kinds of values that JSON has.

    Raises:
        ParetuneError: of the kind; it is no YAML, deeper or longer than a file of settings is, or holds a value that
            JSON has not (a date, say).
    """
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise kind.refusal(file, f"is not YAML: {error}") from error
    except WRONG_CONTENT as error:
        raise kind.refusal(file, f"is not YAML: {_said(error)}") from error
    _check_extent(found, file, kind, _YAML_NODES)
    return found


def parse_document(text: str | bytes, of: type[Value], file: Path | str, kind: FileKind) -> Value:
    """A value of ours from its JSON.

    Raises:
        ParetuneError: of the kind; it is no JSON, of another version, or breaks the schema, whose first fault is named.
    """
    try:
        return of.model_validate_json(text)
    except ValidationError as error:
        raise kind.refusal(file, _first_fault(error)) from error
    except WRONG_CONTENT as error:
        raise kind.refusal(file, f"is not what was written ({_said(error)})") from error


def read_document(file: Path, of: type[Value], kind: FileKind) -> Value:
    """A value of ours from its file, which :func:`write_document` wrote.

    Raises:
        ParetuneError: of the kind; as :func:`read_sealed` and :func:`parse_document`.
    """
    return parse_document(json.dumps(read_sealed(file, kind)), of, file, kind)


def read_sealed(file: Path, kind: FileKind) -> dict[str, Any]:
    """The object in a file of ours, without its checksum.

    Raises:
        ParetuneError: of the kind; as :func:`read_object`, or the checksum is missing or another's.
    """
    found = read_object(file, kind)
    try:
        return unsealed(found)
    except WRONG_CONTENT as error:
        raise kind.refusal(file, f"is not what was written ({_said(error)})") from error


@contextmanager
def refusing(file: Path | str, kind: FileKind) -> Iterator[None]:
    """Refuse a file whose content is another than the code inside takes for granted.

    Raises:
        ParetuneError: of the kind, with what that code raised.
    """
    try:
        yield
    except WRONG_CONTENT as error:
        raise kind.refusal(file, f"holds something unexpected ({_said(error)})") from error


def sha256_of_file(file: Path, kind: FileKind = _FILE) -> str:
    """Hexadecimal SHA-256 of a file of any size.

    Raises:
        ParetuneError: of the kind; it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise kind.refusal(file, f"cannot be read ({error.strerror})") from error


def inside(folder: Path, name: str) -> Path | None:
    """``folder / name``; ``None`` where that leaves the folder, or a link stands on the way."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name:
        return None
    place = folder
    for part in path.parts:
        place /= part
        if place.is_symlink():
            return None
    return place


def refuse_linked_out(file: Path, folder: Path) -> Path:
    """A file of a model folder, refused where it lies neither in that folder nor among the blobs of a hub's cache.

    A hub's cache has ``models--OWNER--NAME/snapshots/REVISION/FILE``, links to ``models--OWNER--NAME/blobs/HASH``.

    Raises:
        ModelError: it is a link to another place, whose content must be neither read as a model's nor copied.
    """
    place, root = file.resolve(), folder.resolve()
    blobs = place.parent.name == "blobs" and place.parent.parent.name.startswith("models--")
    if not (place.is_relative_to(root) or blobs):
        remedy = "Copy what you want to be part of the model into its folder"
        raise ModelError(f"file {file}", f"is a link out of the model folder, to {place}", remedy)
    return file


def write_parts(
    file: Path, parts: Iterable[Any], *, scratch: Path | None = None, durable: bool = True
) -> tuple[str, int]:
    """Write ``parts`` (bytes-like) one after the other; the file appears whole.

    Args:
        file: what was there is replaced. Its folder is made where it is absent.
        scratch: where the temporary file lies: beside ``file`` if left out; must be on the same disk.
        durable: whether it is on the disk when this returns. Whoever has its hash and can make it again need not wait.

    Returns:
        SHA-256 (hexadecimal) and bytes of the file.

    Raises:
        RunError: the disk is full, or the folder cannot be written to; what was there stays, nothing is left behind.
    """
    digest, size = hashlib.sha256(), 0
    temporary = (scratch or file.parent) / f".{file.name}.{os.getpid()}.tmp"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            for part in parts:
                digest.update(part)
                size += stream.write(part)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise cannot_write(file, error) from error
        raise
    return digest.hexdigest(), size


def write_whole(file: Path, content: str | bytes, *, scratch: Path | None = None) -> Path:
    """Write a text (UTF-8) or bytes to ``file``, which is returned; see :func:`write_parts`."""
    write_parts(file, [content.encode("utf-8") if isinstance(content, str) else content], scratch=scratch)
    return file


def write_document(file: Path, document: Frozen) -> Path:
    """Write a value of ours with its checksum, for :func:`read_document`; see :func:`write_parts`."""
    return write_whole(file, json.dumps(sealed(json.loads(document.model_dump_json())), indent=1) + "\n")


def write_json(file: Path, values: Mapping[str, Any], *, scratch: Path | None = None) -> Path:
    """Write an object, sorted and indented, so that two can be compared by eye; see :func:`write_parts`."""
    return write_whole(file, json.dumps(values, indent=2, sort_keys=True) + "\n", scratch=scratch)


def append_line(file: Path, line: str) -> None:
    """Add a line (ASCII, without its end) to a file, and see it to the disk.

    Raises:
        RunError: the disk is full, or the file cannot be written to. Nothing of the line stays, nor does it after an
            interrupt, which would leave a line that this process does not know.
    """
    try:
        size = file.stat().st_size if file.exists() else 0
        with file.open("ab") as stream:
            stream.write(line.encode("ascii") + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException as error:
        with suppress(OSError):
            if file.exists():
                os.truncate(file, size)
        if isinstance(error, OSError):
            raise cannot_write(file, error) from error
        raise


def drop_torn_line(file: Path) -> None:
    """Cut what a process that was killed, or found the disk full, left after the last whole line.

    Raises:
        RunError: the file cannot be read or cut.
    """
    try:
        raw = file.read_bytes()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):
            os.truncate(file, whole)
    except OSError as error:
        raise cannot_write(file, error) from error


def make_folder(folder: Path) -> Path:
    """Make a folder and those that it lies in, where they are not there.

    Raises:
        RunError: something else is in the way, or the disk refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def cannot_write(path: Path, error: OSError, refused: type[ParetuneError] = RunError) -> ParetuneError:
    """The refusal for a disk that is full or read-only, and for a place below a file."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    reason = f"cannot be written ({error.strerror or error})"
    return refused(
        str(path), reason, "Free some space" if full else "Check the permissions, or name another place"
    )


@contextmanager
def written_whole(folder: Path, refused: type[ParetuneError] = EngineError) -> Iterator[Path]:
    """A folder beside ``folder`` to write into; it takes the name when the block ends without an error.

    Raises:
        ParetuneError: of the class ``refused``; ``folder`` is there already and not empty, or the disk refuses.
    """
    refuse_occupied(folder, refused)
    made = absent_folders(folder.parent)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    except OSError as error:
        raise cannot_write(folder, error, refused) from error
    try:
        yield partial
        _give_usual_modes(partial)
        partial.replace(folder)
    except OSError as error:
        raise cannot_write(folder, error, refused) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        remove_empty(made)


def absent_folders(folder: Path) -> list[Path]:
    """The folder and those that it lies in, innermost first, as far as they are not there yet."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders that were made for nothing, innermost first; those that hold something stay."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def refuse_occupied(folder: Path, refused: type[ParetuneError] = EngineError) -> None:
    """Refuse to write where something is.

    Raises:
        ParetuneError: of the class ``refused``; it is a file, or a folder that is not empty, or cannot be looked at.
    """
    try:
        occupied = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    except OSError as error:
        raise cannot_write(folder, error, refused) from error
    if occupied:
        raise refused(f"folder {folder}", "is there already and not empty", "Name another, or delete it")


def _give_usual_modes(folder: Path) -> None:
    """Temporary folders, and files of safetensors, are for their owner alone; who serves an export may be another."""
    mask = os.umask(0o077)
    os.umask(mask)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():  # what it leads to is not ours
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _as_object(found: Any, file: Path | str, kind: FileKind) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise kind.refusal(file, "must hold an object")
    return found


def _check_extent(found: Any, file: Path | str, kind: FileKind, most: int) -> None:
    """Refuse what is nested too deeply, or through references longer than it looks, or no value that JSON has."""
    level, seen = [found], 0
    for _ in range(_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif not isinstance(value, _PLAIN):
                raise kind.refusal(
                    file, f"holds a value of type {type(value).__name__}, which nothing asks for"
                )
        seen += len(level)
        if seen + len(below) > most:
            raise kind.refusal(file, f"holds more than {most:,} values")
        if not below:
            return
        level = below
    raise kind.refusal(file, f"is nested deeper than {_DEPTH} values")


def _first_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["loc"] == ("schema_version",):
        return f"is of version {first['input']!r}, which this version does not read"
    return f"{place}: {first['msg']}" if place else f"is not what was written ({first['msg']})"


def _said(error: BaseException) -> str:
    """The first line of what a library said."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]

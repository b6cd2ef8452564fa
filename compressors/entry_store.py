"""Files of a bank: one safetensors file per entry, and an append-only index with the SHA-256 of each.

An entry is written once and whole: to a temporary name, renamed, and only then named in the index, so a build that is
killed goes on at the entry it was at. Several processes may have one bank open. Whoever writes holds its lock and looks
first whether another was faster; whoever misses an entry looks what others have added to the index since. Reading takes
no lock, so a bank that cannot be written to can be read. What a process holds of it in memory has a budget.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

import torch

from paretune.compressors.tensor_file import write_tensors
from paretune.spaces.errors import ParetuneError, RunError
from paretune.spaces.files import FileKind, cannot_write, parse_json, read_bytes

T = TypeVar("T")

INDEX = "entries.jsonl"
_FOLDER = "entries"
_LOCK = "bank.lock"
_BANK = FileKind("file", RunError, "Delete the folder; the bank is built again", 1 << 40)
_LINE_BYTES = 140
"""More than a line of the index takes besides the name of its entry."""


def index_bytes(name: str) -> int:
    """Upper bound of what the index says about the entry ``name``."""
    return len(json.dumps(name)) + _LINE_BYTES


@contextmanager
def lock_bank(folder: Path) -> Iterator[None]:
    """Wait until no other process writes to the bank in ``folder``, and keep them waiting.

    The lock goes with the process, however it ends. What a process that was killed left half-written is removed: nobody
    writes without the lock.

    Raises:
        RunError: the folder cannot be written to.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / _LOCK).open("ab")
    except OSError as error:
        raise cannot_write(folder / _LOCK, error) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class Held(Generic[T]):
    """Values by name, at most ``budget_bytes`` of them; the least recently used goes first.

    What the model is using stays alive in the model when it is dropped here, so the bytes of one candidate come on top
    of the budget at worst. While everything fits, nothing is ever made twice.
    """

    def __init__(self, budget_bytes: int, size: Callable[[T], int]) -> None:
        self.budget_bytes = budget_bytes
        self.held_bytes = 0
        self._size = size
        self._held: OrderedDict[str, T] = OrderedDict()

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more are held without anything being dropped."""
        return self.held_bytes + size <= self.budget_bytes

    def shrink(self, budget_bytes: int) -> None:
        """Hold no more than so many bytes from now on."""
        self.budget_bytes = budget_bytes
        while self.held_bytes > self.budget_bytes:
            self.held_bytes -= self._size(self._held.popitem(last=False)[1])

    def get(self, name: str, make: Callable[[], T]) -> T:
        """The value called ``name``, made if it is not held."""
        found = self._held.get(name)
        if found is not None:
            self._held.move_to_end(name)
            return found
        made = make()
        size = self._size(made)
        if size <= self.budget_bytes:
            self._held[name] = made
            self.held_bytes += size
            self.shrink(self.budget_bytes)
        return made


class EntryStore:
    """Entries by name.

    Args:
        folder: of the bank; made when the first entry is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashes: dict[str, str] = {}
        self._verified: set[str] = set()
        self._seen_bytes = 0
        self._writing = False
        if folder.is_dir() and os.access(folder, os.W_OK):
            self._remove_leftovers()
        self._look()

    def __contains__(self, name: str) -> bool:
        if name not in self._hashes:
            self._look()
        return name in self._hashes

    def __len__(self) -> int:
        return len(self._hashes)

    def path(self, name: str) -> Path:
        """Where the entry is kept."""
        return self.folder / _FOLDER / f"{name}.safetensors"

    def read(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of an entry, checked against its hash on first use.

        Raises:
            RunError: the file is absent or is not what was written.
        """
        from safetensors.torch import load

        content = read_bytes(self.path(name), _BANK)
        if name not in self._verified:
            if hashlib.sha256(content).hexdigest() != self._hashes.get(name):
                raise self._damaged(name, "its content is not what the index says")
            self._verified.add(name)
        tensors: dict[str, torch.Tensor] = load(content)
        return tensors

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What is written inside goes together: no other process writes in between."""
        if self._writing:
            yield
            return
        with lock_bank(self.folder):
            self._writing = True
            try:
                yield
            finally:
                self._writing = False

    def write(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        """Keep an entry, unless another process did; then that one's counts.

        Raises:
            RunError: the disk is full, or the folder cannot be written to.
        """
        with self.writing():
            if name in self:
                return
            digest, size = write_tensors(self.path(name), tensors)
            line = json.dumps({"name": name, "sha256": digest, "bytes": size}) + "\n"
            try:
                with (self.folder / INDEX).open("ab") as stream:
                    stream.truncate(self._seen_bytes)  # what lies behind it a killed process left
                    stream.write(line.encode("ascii"))
            except OSError as error:
                raise cannot_write(self.folder / INDEX, error) from error
            self._look()
            self._verified.add(name)

    def _look(self) -> None:
        """Read what was added to the index since; the beginning of a line is left for later."""
        try:
            with (self.folder / INDEX).open("rb") as stream:
                if stream.seek(0, os.SEEK_END) < self._seen_bytes:  # somebody deleted the bank
                    self._hashes, self._seen_bytes = {}, 0
                stream.seek(self._seen_bytes)
                content = stream.read()
        except OSError:
            return
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].splitlines():
            self._read_line(line)
        self._seen_bytes += whole

    def _read_line(self, line: bytes) -> None:
        try:
            values = parse_json(line, self.folder / INDEX, _BANK)
            name, digest = str(values["name"]), str(values["sha256"])
        except (ParetuneError, KeyError, TypeError):
            return  # its entry is made again
        if self.path(name).is_file():
            self._hashes[name] = digest

    def _remove_leftovers(self) -> None:
        """Temporary files of processes that were killed; the lock says that nobody is writing one."""
        if any(self.folder.rglob(".*.tmp")):
            with lock_bank(self.folder):
                for file in self.folder.rglob(".*.tmp"):
                    with suppress(OSError):
                        file.unlink()

    def _damaged(self, name: str, reason: str) -> RunError:
        return RunError(
            f"entry {name} of the bank in {self.folder}", reason, "Delete the folder; the bank is built again"
        )

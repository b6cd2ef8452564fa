"""Files of a bank: one safetensors file an entry, and an append-only index with the SHA-256 of each.

A file is written to a temporary name, renamed, and only then named in the index, so a build that is killed
goes on at the entry it was at. A torn last line of the index is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch

from paretune.compressors.tensor_file import unwritable, write_tensors
from paretune.spaces.errors import RunError

INDEX = "entries.jsonl"
_FOLDER = "entries"
_LINE_BYTES = 140
"""More than a line of the index takes besides the name of its entry."""


def index_bytes(name: str) -> int:
    """Upper bound of what the index says about the entry ``name``."""
    return len(json.dumps(name)) + _LINE_BYTES


class EntryStore:
    """Entries by name.

    Args:
        folder: of the bank; made when the first entry is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashes: dict[str, str] = {}
        self._verified: set[str] = set()
        index = folder / INDEX
        if index.is_file():
            for line in index.read_text(encoding="ascii").splitlines():
                self._read_line(line)

    def __contains__(self, name: str) -> bool:
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

        try:
            content = self.path(name).read_bytes()
        except OSError as error:
            raise self._damaged(name, error.strerror or "it cannot be read") from error
        if name not in self._verified:
            if hashlib.sha256(content).hexdigest() != self._hashes.get(name):
                raise self._damaged(name, "its content is not what the index says")
            self._verified.add(name)
        tensors: dict[str, torch.Tensor] = load(content)
        return tensors

    def write(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        """Keep an entry.

        Raises:
            RunError: the disk is full, or the folder cannot be written to.
        """
        digest, size = write_tensors(self.path(name), tensors)
        line = json.dumps({"name": name, "sha256": digest, "bytes": size}) + "\n"
        try:
            with (self.folder / INDEX).open("ab") as stream:
                if stream.tell() and not _ends_with_newline(self.folder / INDEX):
                    stream.write(b"\n")
                stream.write(line.encode("ascii"))
        except OSError as error:
            raise unwritable(self.folder / INDEX, error) from error
        self._hashes[name] = digest
        self._verified.add(name)

    def _read_line(self, line: str) -> None:
        try:
            values = json.loads(line)
            name, digest = str(values["name"]), str(values["sha256"])
        except (ValueError, KeyError, TypeError):
            return
        if self.path(name).is_file():
            self._hashes[name] = digest

    def _damaged(self, name: str, reason: str) -> RunError:
        return RunError(
            f"entry {name} of the bank in {self.folder}", reason, "Delete the folder; the bank is built again"
        )


def _ends_with_newline(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"

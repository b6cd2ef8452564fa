"""``records.jsonl``: a line an evaluation, append-only, flushed to disk before the next begins.

A process killed while it wrote leaves a torn last line, which is dropped when the run is resumed; everything
before it is kept and never evaluated again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from paretune.search.run_folder import cannot_write, drop_torn_line
from paretune.spaces.errors import RunError
from paretune.spaces.measurement import Fidelity, Record

FILE = "records.jsonl"


class RecordFile:
    """The records of a run folder, read once and then only appended to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._records: list[Record] = []
        self._by_reading: dict[tuple[str, str], Record] = {}
        self._read_tokens: dict[tuple[str, str], int] = {}
        for record in _read(self.path):
            self._keep(record)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def find(self, digest: str, fidelity: Fidelity) -> Record | None:
        """The record of this candidate at exactly this fidelity."""
        return self._by_reading.get((digest, fidelity.name))

    def read_tokens(self, digest: str, text: str) -> int:
        """Tokens of a text that were read with this candidate so far."""
        return self._read_tokens.get((digest, text), 0)

    def append(self, record: Record) -> Record:
        """Write a record and keep it.

        Raises:
            RunError: the disk is full; nothing of the line stays in the file, nor does it after an interrupt.
        """
        line = record.to_json() + "\n"
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="ascii") as handle:
                handle.write(line)
                handle.flush()
                os.fsync(handle.fileno())
        except BaseException as error:
            # Interrupted in between, the file would have a record that this process does not know.
            if self.path.exists():
                os.truncate(self.path, size)
            if isinstance(error, OSError):
                raise cannot_write(self.path, error) from error
            raise
        self._keep(record)
        return record

    def counts(self) -> dict[str, int]:
        """How many records each sampler has."""
        return dict(Counter(record.sampler for record in self._records))

    @property
    def evaluations(self) -> float:
        """Spent on all texts so far, in units of 16,384 tokens."""
        return sum(record.evaluations for record in self._records)

    def evaluations_on(self, text: str) -> float:
        """Spent on one text so far."""
        return sum(record.evaluations for record in self._records if record.fidelity.text == text)

    def seconds_on(self, text: str) -> float:
        """Spent on scoring on one text so far."""
        return sum(record.seconds for record in self._records if record.fidelity.text == text)

    def _keep(self, record: Record) -> None:
        self._records.append(record)
        self._by_reading[record.digest, record.fidelity.name] = record
        key = record.digest, record.fidelity.text
        self._read_tokens[key] = max(record.fidelity.tokens, self._read_tokens.get(key, 0))


def _read(path: Path) -> Iterator[Record]:
    if not path.exists():
        return
    drop_torn_line(path)
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            yield Record.from_json(line.decode("ascii"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise RunError(
                f"line {number} of {path}",
                "is not a record of this version",
                "Remove the run folder or use another",
            ) from error

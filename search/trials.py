"""``sampler.json``: how far a sampler has come, so that a search which was stopped goes on as the same search.

It is written whenever a point was proposed, before the point is scored. With the records of the trials in the order in
which they were told, it is all that a sampler needs to go on: nothing is asked for again, and trials may end in
another order than they began in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from paretune.search.record_lines import damaged, sealed, unsealed
from paretune.spaces.files import write_whole
from paretune.spaces.schema import Document
from paretune.spaces.space import Point

FILE = "sampler.json"


class Progress(Document):
    """The content of ``sampler.json``.

    Attributes:
        asked: trials that were proposed; their numbers are 0 to ``asked - 1``.
        pending: points of trials that were not scored yet when this was written, by number.
        state: :meth:`paretune.search.candidates.Candidates.state`.
    """

    asked: int = 0
    pending: dict[int, Point] = Field(default_factory=dict)
    state: dict[str, Any] = Field(default_factory=dict)


class Trials:
    """Numbers trials and keeps what is pending.

    Args:
        folder: of the run.
        told: numbers of the trials that have a record.

    Attributes:
        asked: number of the next trial.
        state: of the sampler when it was stopped; empty where it begins, or where nothing was kept that fits the
            records: it goes on from these alone then.

    Raises:
        RunError: the file is damaged.
    """

    def __init__(self, folder: Path, told: Collection[int]) -> None:
        self.path = folder / FILE
        found = self._read()
        pending = {trial: point for trial, point in found.pending.items() if trial not in told}
        fits = set(range(found.asked)) <= {*told, *pending}
        self.pending: dict[int, Point] = pending if fits else {}
        self.state: Mapping[str, Any] = found.state if fits else {}
        self.asked = max(found.asked if fits else 0, 1 + max(told, default=-1))

    def ask(self, point: Point, state: Mapping[str, Any]) -> int:
        """Number a point that was proposed, and write what the sampler needs to go on after it.

        Raises:
            RunError: the disk is full.
        """
        pending = {**self.pending, self.asked: point}
        kept = Progress(asked=self.asked + 1, pending=pending, state=dict(state))
        write_whole(self.path, sealed(kept.model_dump(mode="json")) + "\n")
        self.pending, self.asked = pending, self.asked + 1
        return self.asked - 1

    def told(self, trial: int) -> None:
        """A trial has its record; the file says so with the next that is asked."""
        self.pending.pop(trial, None)

    def _read(self) -> Progress:
        if not self.path.exists():
            return Progress()
        try:
            line = self.path.read_bytes().removesuffix(b"\n")
            return Progress.model_validate(unsealed(line, str(self.path)))
        except (OSError, ValueError) as error:
            raise damaged(str(self.path), "cannot be read as the state of a sampler") from error

"""How long a search may go on: minutes, evaluations, candidates, whichever ends first."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from search.records import RecordFile
from search.settings import SearchSettings


@dataclass
class Budget:
    """Counts what was spent, earlier runs of the same folder included.

    Attributes:
        settings: the bounds.
        records: what was spent on.
        reserved: evaluations kept back for the front on the report text.
    """

    settings: SearchSettings
    records: RecordFile
    reserved: float = 0.0
    _start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._before = self.records.seconds

    @property
    def seconds(self) -> float:
        """Spent on searching."""
        return self._before + time.monotonic() - self._start

    @property
    def seconds_left(self) -> float | None:
        """Until the search must end; ``None`` without a bound on time."""
        return None if self.settings.minutes is None else 60 * self.settings.minutes - self.seconds

    def exhausted(self, candidates: int) -> bool:
        """Whether another candidate would exceed a bound."""
        settings, left = self.settings, self.seconds_left
        if left is not None and left <= 0:
            return True
        if settings.max_candidates is not None and candidates >= settings.max_candidates:
            return True
        most = settings.max_evaluations
        return most is not None and self.records.evaluations + self.reserved >= most

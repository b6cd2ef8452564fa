"""How long a search may go on: minutes, evaluations, candidates, whichever ends first."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from paretune.search.records import RecordFile
from paretune.search.settings import SearchSettings


@dataclass
class Budget:
    """Counts what was spent on the search text, earlier runs of the same folder included.

    What the report text costs is no part of it, else a search that goes on after its front was judged would
    end sooner than one that never stopped.

    Attributes:
        settings: the bounds.
        records: what was spent on.
    """

    settings: SearchSettings
    records: RecordFile
    _start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._before = self.records.seconds_on("search")

    @property
    def seconds(self) -> float:
        """Spent on searching."""
        return self._before + time.monotonic() - self._start

    @property
    def seconds_left(self) -> float | None:
        """Until the search must end; ``None`` without a bound on time."""
        return None if self.settings.minutes is None else 60 * self.settings.minutes - self.seconds

    @property
    def spent(self) -> bool:
        """Whether the minutes or the evaluations are used up."""
        left, most = self.seconds_left, self.settings.max_evaluations
        if left is not None and left <= 0:
            return True
        return most is not None and self.records.evaluations_on("search") >= most

    def exhausted(self, candidates: int) -> bool:
        """Whether another candidate would exceed a bound."""
        most = self.settings.max_candidates
        return (most is not None and candidates >= most) or self.spent

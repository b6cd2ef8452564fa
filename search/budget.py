"""How long a search may go on: minutes, evaluations, candidates, whichever ends first."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from paretune.search.records import RecordFile
from paretune.search.settings import SearchSettings
from paretune.spaces.result import Ended


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
    def spent(self) -> Ended:
        """The bound that was reached, of ``minutes`` and ``evaluations``; empty while neither is."""
        left, most = self.seconds_left, self.settings.max_evaluations
        if left is not None and left <= 0:
            return "minutes"
        return "evaluations" if most is not None and self.records.evaluations_on("search") >= most else ""

    def reached(self, candidates: int) -> Ended:
        """The bound that another candidate would exceed; empty where none."""
        most = self.settings.max_candidates
        return "candidates" if most is not None and candidates >= most else self.spent

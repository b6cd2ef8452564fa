"""What is watched, check after check: the rung that is on, limits, and the step to the next rung.

After a switch the old model is served until somebody has restarted the server. Until the first healthy check, and
for no longer than the settling time, broken limits are reported and not counted: otherwise one slow restart would
run down the whole ladder.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from paretune.engines.canary import Canary, read_canaries
from paretune.engines.manifest import MANIFEST
from paretune.monitoring.endpoint import Endpoint
from paretune.monitoring.errors import SwitchError
from paretune.monitoring.files import FileGuard
from paretune.monitoring.ladder import Ladder
from paretune.monitoring.limits import Limit, Streaks, Watched
from paretune.monitoring.reading import Reading, take_reading, usable
from paretune.monitoring.switching import Switcher
from paretune.spaces.errors import VerificationError


@dataclass(frozen=True)
class Outcome:
    """One check and what followed.

    Attributes:
        rung: that was on when the canaries were asked.
        reading: what they said.
        broken: limits that this check broke.
        switched_to: rung that was put in its place, if any.
        note: in words, empty where all is well.
        unix_s: when.
    """

    rung: int
    reading: Reading
    broken: tuple[Limit, ...]
    switched_to: int | None
    note: str
    unix_s: float


class Watch:
    """Checks of one endpoint against one ladder; one at a time, whoever asks.

    Args:
        ladder: whose rung should be served.
        endpoint: that serves.
        switcher: ``None``: limits are reported and nothing is switched.
        limits: by metric, in its unit, besides each rung's own trigger; one of the trigger's metric takes its place.
        in_a_row: checks that have to break any limit; ``None``: as many as the rung's own trigger says.
        pid: of the server's process, or a file that holds it, where memory is watched.
        files: holds files of the rungs against their hashes; ``None``: they are not read.
        settle_s: longest wait for a healthy check after a switch.
        clock: seconds that never run backwards.

    Raises:
        RunError: a rung has no canaries.
        VerificationError: they are not those that it was exported with.
        MonitorError: its canaries cannot be asked of the endpoint.
    """

    def __init__(
        self,
        ladder: Ladder,
        endpoint: Endpoint,
        switcher: Switcher | None = None,
        *,
        limits: Mapping[Watched, float] | None = None,
        in_a_row: int | None = None,
        pid: int | Path | None = None,
        files: FileGuard | None = None,
        settle_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ladder, self.endpoint = ladder, endpoint
        self.switches, self.failed_switches = 0, 0
        self.last: Outcome | None = None
        self._switcher, self._limits, self._in_a_row, self._pid = switcher, dict(limits or {}), in_a_row, pid
        self._files, self._settle_s, self._clock = files, settle_s, clock
        self._settled_at: float | None = None
        self._canaries = [self._read(index) for index in range(len(ladder.rungs))]
        self._lock = threading.Lock()
        self._rung = ladder.on()
        self.streaks = Streaks(self.limits_of(self._rung))

    @property
    def rung(self) -> int:
        """The rung that was on at the last check or switch."""
        return self._rung

    @property
    def can_switch(self) -> bool:
        """Whether there is anything that switches."""
        return self._switcher is not None

    @property
    def settling(self) -> bool:
        """Whether the server has yet to be restarted after a switch."""
        return self._settled_at is not None and self._clock() < self._settled_at

    def limits_of(self, rung: int) -> tuple[Limit, ...]:
        """What is held against the checks of a rung."""
        trigger = self.ladder.rungs[rung].trigger
        whole: dict[Watched, float] = {} if self._files is None else {"altered_files": 0.0}
        found = {**whole, trigger.metric: trigger.limit, **self._limits}
        in_a_row = trigger.in_a_row if self._in_a_row is None else self._in_a_row
        return tuple(Limit(metric=name, limit=limit, in_a_row=in_a_row) for name, limit in found.items())

    def check(self) -> Outcome:
        """Ask the canaries of the rung that is on; switch where a limit has been broken for long enough.

        Raises:
            MonitorError: the link points to no rung.
        """
        with self._lock:
            rung = self._follow()
            reading = self._with_files(rung, take_reading(self.endpoint, self._canaries[rung], self._pid))
            values = reading.values()
            broken = tuple(
                limit
                for limit in self.streaks.limits
                if (value := values[limit.metric]) is not None and limit.broken_by(value)
            )
            if not broken and not reading.unanswered:
                self._settled_at = None
            lasting = None if self.settling else self.streaks.add(values)
            to, note = self._react(rung, lasting, reading)
            self.last = Outcome(rung, reading, broken, to, note, time.time())
            return self.last

    def switch(self, wanted: int | str | None, reason: str) -> int:
        """Put a rung in place by request: the next one if none is named; returns it.

        Raises:
            SwitchError: nothing switches here, there is no further rung, or it was not made.
            MonitorError: there is no such rung.
        """
        with self._lock:
            rung = self._follow()
            to = self.ladder.next(rung) if wanted is None else self.ladder.find(wanted)
            if to is None:
                raise SwitchError(f"rung {rung}", "is the last of the ladder", "Name another")
            self._step(rung, to, reason)
            return to

    def _read(self, rung: int) -> tuple[Canary, ...]:
        return usable(read_canaries(self.ladder.place(rung)).canaries, self.endpoint)

    def _altered(self, rung: int) -> tuple[str, ...]:
        if self._files is None:
            return ()
        try:
            return self._files.altered(self.ladder.place(rung))
        except VerificationError:
            return (MANIFEST,)

    def _with_files(self, rung: int, reading: Reading) -> Reading:
        if self._files is None:
            return reading
        names = self._altered(rung)
        said = f"{', '.join(names)} of the export: not what {MANIFEST} says" if names else ""
        reason = "; ".join(text for text in (reading.reason, said) if text)
        return replace(reading, altered_files=len(names), reason=reason)

    def _follow(self) -> int:
        """The rung that is on; counting starts again where somebody else moved the link."""
        rung = self.ladder.on()
        if rung != self._rung:
            self._turn(rung)
        return rung

    def _turn(self, rung: int) -> None:
        self._rung = rung
        self._settled_at = self._clock() + self._settle_s
        self.streaks = Streaks(self.limits_of(rung))

    def _react(self, rung: int, lasting: Limit | None, reading: Reading) -> tuple[int | None, str]:
        if lasting is None:
            return None, reading.reason
        value = reading.values()[lasting.metric]
        why = (
            f"{lasting.metric} {value:.4g} above {lasting.limit:.4g} for {self.streaks.count(lasting)} checks"
        )
        to = self.ladder.next(rung)
        if to is None or self._switcher is None:
            return None, f"{why}; {'this is the last rung' if to is None else 'nothing switches here'}"
        # A rung whose files are damaged is no better: it is passed over where there is another below it.
        while self._altered(to) and (further := self.ladder.next(to)) is not None:
            to = further
        try:
            self._step(rung, to, why)
        except SwitchError as error:
            return None, f"{why}; {error}"
        return to, f"{why}; switched to {self.ladder.rungs[to].name}"

    def _step(self, rung: int, to: int, reason: str) -> None:
        if self._switcher is None:
            raise SwitchError("this monitor", "switches nothing", "Start it on a ladder")
        try:
            if altered := self._altered(to):
                raise SwitchError(
                    f"rung {self.ladder.rungs[to].name}", f"is damaged ({altered[0]})", "Export it again"
                )
            self._switcher.switch(rung, to, reason)
        except SwitchError:
            self.failed_switches += 1
            raise
        self.switches += 1
        self._turn(to)

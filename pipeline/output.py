"""What a command says while it works and when it refuses: progress, notes, errors.

Progress is shown on a terminal only; a pipe gets plain lines at the start of each stage and nothing else.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from paretune.spaces.errors import ParetuneError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def print_error(error: ParetuneError) -> None:
    """One block on standard error: what was found, the rule, the remedy."""
    print(f"error: {error.value}\n  rule:   {error.rule}\n  remedy: {error.remedy}", file=sys.stderr)


def note(text: str) -> None:
    """One plain line on standard error, where it does not disturb a pipe."""
    print(text, file=sys.stderr, flush=True)


class Stages:
    """Times the stages of a job and shows where it is, with the time left.

    Attributes:
        spent: seconds by stage, in order.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.spent: dict[str, float] = {}
        self._live = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Time what happens inside; seconds are added to :attr:`spent` under ``name``."""
        start = time.perf_counter()
        self._begin(title)
        try:
            yield
        finally:
            self._end()
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - start

    def report(
        self, what: str, done: int, total: int | None = None, seconds_left: float | None = None
    ) -> None:
        """Where the stage is: ``done`` of ``total``; ``seconds_left`` overrides the bar's own estimate."""
        if self._progress is None or self._task is None:
            return
        left = "" if seconds_left is None else f" {_clock(seconds_left)} left"
        self._progress.update(
            self._task, description=f"{self._stage}: {what}{left}", completed=done, total=total
        )

    def _begin(self, title: str) -> None:
        self._stage = title
        if self._live:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(title, total=None)
        elif not self._quiet:
            note(title)

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    return f"{minutes}:{rest:02d}"

"""What a job says while it works: its stages, how far they are, and notes.

A bar is shown on a terminal and in a notebook that has ipywidgets; a pipe gets a plain line at the start of each
stage and nothing else. A program that shows progress itself gives a function.
"""

from __future__ import annotations

import datetime
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


@dataclass(frozen=True)
class Step:
    """Where a job is.

    Attributes:
        stage: that is being worked on, in words.
        what: of the stage; empty at its start.
        done, total: how many of how many; no total where it is not known.
        seconds_left: of the stage's time box; ``None`` where it has none.
    """

    stage: str
    what: str = ""
    done: int = 0
    total: int | None = None
    seconds_left: float | None = None


Progress = bool | Callable[[Step], None]
"""``True``: a bar or plain lines on standard error; ``False``: nothing; a function is called with every step."""


def note(text: str) -> None:
    """One plain line on standard error, where it does not disturb a pipe."""
    print(text, file=sys.stderr, flush=True)


class Stages:
    """Times the stages of a job and shows where it is, with the time left.

    Args:
        progress: how that is shown.
        spent: seconds by stage of earlier calls that this one goes on from.

    Attributes:
        spent: seconds by stage, in order.
        expected: seconds that a stage was announced to take.
    """

    def __init__(self, progress: Progress = True, spent: Mapping[str, float] | None = None) -> None:
        self.spent: dict[str, float] = dict(spent or {})
        self.expected: dict[str, float] = {}
        self._progress = progress
        self._live = progress is True and _can_draw()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._title = self._name = ""

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Time what happens inside; seconds are added to :attr:`spent` under ``name``."""
        start = time.perf_counter()
        self._name = name
        self._begin(title)
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.stop()
            self._bar = self._task = None
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - start

    def report(
        self, what: str, done: int, total: int | None = None, seconds_left: float | None = None
    ) -> None:
        """Where the stage is: ``done`` of ``total``; a stage with a time box says what is left of it instead."""
        if callable(self._progress):
            self._progress(Step(self._title, what, done, total, seconds_left))
        if self._bar is None or self._task is None:
            return
        count, end, completed = f"{done}/{total}" if total else f"{done}", self._end(), float(done)
        if seconds_left is not None:  # one clock: the box ends the stage, whatever its count
            completed = self._bar.tasks[0].elapsed or 0.0
            last = completed + max(0.0, seconds_left)
            count, end, total = f"{done}", f"of {_clock(last)}", math.ceil(last)
        self._bar.update(
            self._task,
            description=f"{self._name}: {what}",
            completed=completed,
            total=total,
            count=count,
            end=end,
        )

    def _begin(self, title: str) -> None:
        self._title = title
        if callable(self._progress):
            self._progress(Step(title))
        elif self._live:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar
            from rich.table import Column

            whole = Column(no_wrap=True)
            self._bar = Bar(
                TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=1)),
                BarColumn(bar_width=8),
                TextColumn("{task.fields[count]}", table_column=whole),
                TimeElapsedColumn(table_column=whole),
                TextColumn("{task.fields[end]}", table_column=whole),
                console=Console(stderr=True),
                transient=True,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(title, total=None, count="", end=self._end())
        elif self._progress:
            note(" ".join([title, *(f"(about {end})" for end in [self._end().removeprefix("of ~")] if end)]))

    def _end(self) -> str:
        """When the stage was announced to end; empty where it was not."""
        expected = self.expected.get(self._name, 0.0)
        return f"of ~{_clock(expected)}" if expected >= 1 else ""


def _can_draw() -> bool:
    """Whether somebody sees a bar: in a notebook rich draws it by ipywidgets alone."""
    return find_spec("ipywidgets") is not None if "ipykernel" in sys.modules else sys.stderr.isatty()


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(max(0.0, seconds))))

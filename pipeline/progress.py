"""What a job says while it works: its stages, how far they are, and notes.

A bar is shown on a terminal and in a notebook that has ipywidgets; a pipe gets a plain line at the start of each
stage and nothing else. A program that shows progress itself gives a function.
"""

from __future__ import annotations

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
    """

    def __init__(self, progress: Progress = True, spent: Mapping[str, float] | None = None) -> None:
        self.spent: dict[str, float] = dict(spent or {})
        self._progress = progress
        self._live = progress is True and _can_draw()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._title = ""

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Time what happens inside; seconds are added to :attr:`spent` under ``name``."""
        start = time.perf_counter()
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
        count = f"{done}" if total is None else f"{done}/{total}"
        if (
            seconds_left is not None
        ):  # one clock: the box ends the stage, whatever a bar would guess of its count
            count = f"{done}, {_clock(seconds_left)} left"
            done, total = 0, None
        self._bar.update(
            self._task, description=f"{self._title}: {what}", completed=done, total=total, count=count
        )

    def _begin(self, title: str) -> None:
        self._title = title
        if callable(self._progress):
            self._progress(Step(title))
        elif self._live:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar
            from rich.table import Column

            shown = TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=1))
            counted = TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True))
            self._bar = Bar(
                shown,
                BarColumn(bar_width=16),
                counted,
                console=Console(stderr=True),
                transient=True,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(title, total=None, count="")
        elif self._progress:
            note(title)


def _can_draw() -> bool:
    """Whether somebody sees a bar: in a notebook rich draws it by ipywidgets alone."""
    return find_spec("ipywidgets") is not None if "ipykernel" in sys.modules else sys.stderr.isatty()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    return f"{minutes}:{rest:02d}"

"""Steps that an interrupt must not cut in two: a file and what the process knows of it, a tensor and its label."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_HELD = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGTERM", "SIGINT") if hasattr(signal, name))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold signals that end or interrupt the process back until the block is left; short blocks only.

    Signals reach the main thread alone, so elsewhere there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    before = {number: signal.getsignal(number) for number in _HELD}
    taken = [number for number, handler in before.items() if callable(handler)]
    try:
        for number in taken:
            signal.signal(number, lambda got, frame: held.append((got, frame)))
        yield
    finally:
        for number in reversed(taken):
            signal.signal(number, before[number])
        for got, frame in held[:1]:
            handler = before[got]
            if callable(handler):
                handler(got, frame)

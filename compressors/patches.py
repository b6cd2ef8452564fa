"""Attributes that were changed, so that they can be put back exactly."""

from __future__ import annotations

from typing import Any

_ABSENT = object()


class Patches:
    """A log of ``setattr`` calls that can be undone."""

    def __init__(self) -> None:
        self._log: list[tuple[Any, str, Any]] = []

    def set(self, target: Any, name: str, value: Any) -> None:
        """Set ``target.name`` and remember what it was."""
        self._log.append((target, name, getattr(target, name, _ABSENT)))
        setattr(target, name, value)

    def undo(self) -> None:
        """Put everything back, last change first."""
        while self._log:
            target, name, value = self._log.pop()
            if value is _ABSENT:
                delattr(target, name)
            else:
                setattr(target, name, value)

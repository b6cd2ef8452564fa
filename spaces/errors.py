"""The error tree: every refusal names the value, the rule it breaks and the remedy.

The command line turns any :class:`ParetuneError` into one readable block and its ``exit_code``; ``paretune --help``
explains them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ParetuneError(Exception):
    """A refusal that a user can act on.

    Args:
        value: what was found, e.g. ``"group size 100"``.
        rule: what has to hold, e.g. ``"must divide the row length 512"``.
        remedy: what to do about it, e.g. ``"use 32, 64 or 128"``.
    """

    exit_code = 2

    def __init__(self, value: str, rule: str, remedy: str) -> None:
        super().__init__(f"{value}: {rule}. {remedy}")
        self.value = value
        self.rule = rule
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[ParetuneError], tuple[str, str, str]]:
        return (type(self), (self.value, self.rule, self.remedy))


class ModelError(ParetuneError):
    """A model folder that is missing, cut short, unknown or already quantized."""


class FormatError(ParetuneError):
    """A number format that does not exist or does not fit a shape."""


class ConfigurationError(ParetuneError):
    """A compression configuration that contradicts itself or its model."""


class BrokenCandidateError(ConfigurationError):
    """A candidate whose predictions are not finite: it has no quality. A search marks it and goes on."""


class SpaceError(ParetuneError):
    """A search space without a legal choice, or a restriction that matches nothing."""


class LimitError(ParetuneError):
    """Limits that no configuration meets, or that contradict each other."""

    exit_code = 3


class LimitTextError(LimitError):
    """A limit that cannot be read, or is on what is not measured: a slip of the pen, not of the model."""

    exit_code = 2


class TextError(ParetuneError):
    """A text that is too short, or not disjoint from another."""


class TaskError(ParetuneError):
    """A task that cannot be read or loaded, or has no score by which models can be compared."""


class RunError(ParetuneError):
    """A run file or run folder that does not fit: unknown key, other model, other text."""


class StorageBusyError(ParetuneError):
    """A run folder in use by another process."""


class EngineError(ParetuneError):
    """An engine that is absent, or refuses what it was given."""


class EngineUnavailableError(EngineError):
    """An engine that is not here, took too long or was killed: nothing is known of what it was given."""


class EngineAbsentError(EngineUnavailableError):
    """An engine, or a device of it, that this machine does not have: an export for it can be verified elsewhere."""


class VerificationError(ParetuneError):
    """An export that does not behave as the candidate it was made from."""

    exit_code = 1


class UnknownNameError(ParetuneError):
    """A name that is not registered; the nearest known ones are suggested.

    Args:
        kind: of name.
        name: as given.
        known: registered ones.
        also: in words, what else it could have been.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], also: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(names) if names else "none is registered"
        super().__init__(
            f"{kind} {name!r}", f"is not a known {kind}{also and f' {also}'}", f"{hint}Known: {listed}"
        )
        self.kind = kind
        self.name = name
        self.known = names
        self.also = also

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[Any, ...]]:
        return (UnknownNameError, (self.kind, self.name, self.known, self.also))

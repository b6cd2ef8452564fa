"""What a capability is: lines to learn from, and items that are held out from every text."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random
from typing import ClassVar

_HELD_OUT_SHARE = 10
"""One problem in so many is held out: it appears in items and in no text."""


@dataclass(frozen=True)
class Item:
    """A prompt, its possible continuations (each begins with a space), and the index of the right one."""

    prompt: str
    choices: tuple[str, ...]
    gold: int


class Capability(ABC):
    """Something that the model learns and that a task of its own measures.

    Attributes:
        name: of the capability; its task is ``demo_NAME``.
        generative: whether the task generates (exact match) instead of choosing.
        share: relative number of lines in a text.
        held_out: what the items have that no text has, in words.
    """

    name: ClassVar[str]
    generative: ClassVar[bool] = False
    share: ClassVar[float] = 1.0
    held_out: ClassVar[str]

    @abstractmethod
    def line(self, random: Random) -> str:
        """One line of text, without a line break; never a held-out problem."""

    @abstractmethod
    def item(self, random: Random) -> Item:
        """One held-out problem."""


def is_held_out(*problem: object) -> bool:
    """Whether a problem is reserved for items: decided by its hash, so it needs no list."""
    text = "|".join(str(part) for part in problem)
    return hashlib.sha256(text.encode("utf-8")).digest()[0] % _HELD_OUT_SHARE == 0


def shuffled_item(random: Random, prompt: str, right: str, wrong: list[str]) -> Item:
    """An item whose choices stand in random order."""
    choices = [right, *wrong]
    random.shuffle(choices)
    return Item(prompt, tuple(choices), choices.index(right))

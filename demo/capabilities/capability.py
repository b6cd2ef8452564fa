"""What a capability is: lines to learn from, and items whose problems no text contains."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

_ONE_IN = 10
"""One problem in so many is held out: it appears in items and in no text."""


@dataclass(frozen=True)
class Item:
    """A prompt, its possible continuations, and the index of the right one."""

    prompt: str
    choices: tuple[str, ...]
    gold: int


class Capability(ABC):
    """Something that the model learns and that a task of its own measures.

    Attributes:
        name: of the capability; its task is ``demo_NAME``.
        generative: whether the task generates the answer (exact match) instead of choosing among four.
        share: relative number of lines in a text.
        held_out: what no text contains but items do, in words.
    """

    name: ClassVar[str]
    generative: ClassVar[bool] = False
    share: ClassVar[float]
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
    return hashlib.blake2b(text.encode("utf-8"), digest_size=4).digest()[0] % _ONE_IN == 0


def shuffled_item(random: Random, prompt: str, right: str, wrong: Sequence[str]) -> Item:
    """An item whose choices stand in random order."""
    choices = [right, *wrong]
    random.shuffle(choices)
    return Item(prompt, tuple(choices), choices.index(right))

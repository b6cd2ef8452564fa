"""Dequantized weights within a memory budget: the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch


class DenseCopies:
    """Tensors by name, at most ``budget_bytes`` of them.

    A tensor that the model is using stays alive in the model when it is dropped here, so the bytes of one
    candidate come on top of the budget at worst. While everything fits, nothing is ever made twice.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.held_bytes = 0
        self._held: OrderedDict[str, torch.Tensor] = OrderedDict()

    def get(self, name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The tensor called ``name``, made if it is not held."""
        found = self._held.get(name)
        if found is not None:
            self._held.move_to_end(name)
            return found
        made = make()
        if made.nbytes <= self.budget_bytes:
            self._held[name] = made
            self.held_bytes += made.nbytes
            while self.held_bytes > self.budget_bytes:
                self.held_bytes -= self._held.popitem(last=False)[1].nbytes
        return made

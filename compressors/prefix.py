"""Hidden states that a candidate has in common with the one that was read before it.

What enters a block depends on the tokens, the embedding and the blocks before it. Of the model that was read last, what
entered each block is kept; a candidate that differs from it from block ``b`` on starts there. Sensitivities are read
layer by layer, so most of their passes begin where the model before them was left.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.model import ModelSpec

Signature = tuple[Any, ...]
"""Whatever a block computes with: equal signatures, equal blocks."""

_BUDGET_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}


def prefix_budget(device: torch.device) -> int:
    """Bytes of hidden states that are kept where nobody says another number."""
    return _BUDGET_BYTES.get(device.type, 1 << 30)


def block_signatures(spec: ModelSpec, config: CompressionConfig) -> tuple[Signature, ...] | None:
    """A signature per block of the model; ``None`` where blocks of candidates cannot be told apart so.

    That is so of models that were cut, and of blocks that read what earlier ones left beside hidden states (caches
    shared between blocks).
    """
    if not config.pruned.whole or any(getattr(cache, "shared", False) for cache in spec.cache):
        return None
    everywhere = (config.choice(spec.embedding.name), config.kv, config.rounded_experts)
    inside: list[list[Any]] = [list(everywhere) for _ in range(spec.blocks)]
    for layer, choice in config.layers.items():
        block = spec.linear(layer).block
        if block is not None:
            inside[block] += (layer, choice)
    return tuple(tuple(found) for found in inside)


@dataclass
class _Kept:
    """Of one micro-batch: what entered blocks, and what blocks gave beside hidden states (``None``: nothing)."""

    signatures: tuple[Signature, ...]
    states: dict[int, torch.Tensor] = field(default_factory=dict)
    rest: tuple[Any, ...] | None = None

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes for state in self.states.values())

    def start(self, signatures: Sequence[Signature]) -> int:
        """The last block that a model of these signatures enters with what is kept."""
        pairs = enumerate(zip(self.signatures, signatures, strict=True))
        equal = next((block for block, (old, new) in pairs if old != new), len(signatures))
        return max((block for block in self.states if block <= equal), default=0)


class Prefix:
    """Keeps hidden states of what was read last, by micro-batch, and starts later readings from them.

    Args:
        blocks: of the model, in order.
        budget_bytes: of what is kept; the oldest micro-batch goes first, and of one that is larger only every second,
            third ... block is kept.

    Attributes:
        skipped: blocks that were not run, in all.
    """

    def __init__(self, blocks: Iterable[torch.nn.Module], budget_bytes: int | None = None) -> None:
        self._blocks = list(blocks)
        self._names = [next(iter(inspect.signature(block.forward).parameters)) for block in self._blocks]
        self._budget_bytes = budget_bytes
        self._kept: OrderedDict[tuple[int, int], _Kept] = OrderedDict()
        self.skipped = 0

    @contextmanager
    def reading(self, batch: tuple[int, int], signatures: tuple[Signature, ...]) -> Iterator[None]:
        """Around one pass of the model over a micro-batch.

        Args:
            batch: its first window and the one behind its last, by which it is known.
            signatures: of the model's blocks now.
        """
        now = self._kept.pop(batch, None) or _Kept(signatures)
        start = now.start(signatures)
        # What the model before had entered later blocks with goes before anything new comes.
        now.states = {block: state for block, state in now.states.items() if block <= start}
        now.signatures = signatures
        own = [block.__dict__.get("forward") for block in self._blocks]
        for index, block in enumerate(self._blocks):
            block.forward = self._step(index, start, now)
        try:
            yield
        finally:
            for block, forward in zip(self._blocks, own, strict=True):
                if forward is None:
                    del block.forward
                else:
                    block.forward = forward
        self.skipped += start
        self._kept[batch] = now

    def _step(self, index: int, start: int, kept: _Kept) -> Callable[..., Any]:
        """What a block does in a reading: hand on what it gets before ``start``, else note what enters it and run."""
        own, name = self._blocks[index].forward, self._names[index]

        def forward(*inputs: Any, **options: Any) -> Any:
            hidden = inputs[0] if inputs else options.pop(name)
            if index < start:
                return hidden if kept.rest is None else (hidden, *kept.rest)
            if index == start and start:
                hidden = kept.states[start]
            elif index and index % self._every(hidden) == 0:
                self._make_room(hidden, kept)
                kept.states[index] = hidden
            output = own(hidden, *inputs[1:], **options)
            kept.rest = output[1:] if isinstance(output, tuple) else None
            return output

        return forward

    def _every(self, hidden: torch.Tensor) -> int:
        return max(1, -(-hidden.nbytes * len(self._blocks) // self._budget(hidden)))

    def _budget(self, hidden: torch.Tensor) -> int:
        return prefix_budget(hidden.device) if self._budget_bytes is None else self._budget_bytes

    def _make_room(self, hidden: torch.Tensor, kept: _Kept) -> None:
        """Let go of the oldest micro-batches, until one state more is within the budget."""
        held = hidden.nbytes + kept.nbytes + sum(found.nbytes for found in self._kept.values())
        while held > self._budget(hidden) and self._kept:
            held -= self._kept.popitem(last=False)[1].nbytes

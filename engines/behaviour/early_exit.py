"""A decoded token stops at the block after which the model is sure of the next one.

CALM (Schuster et al. 2022, arXiv:2207.07061): after a block, final norm and head read the hidden state; once
their confidence is above the threshold, strictly, the rest is left out. Later tokens look back at blocks that
this one never ran, so its hidden state at the exit is pushed through their projections of keys and values
(state propagation), and through nothing else of them. Sequences of a batch exit each at its own block; blocks
run until the last of them has. CALM trains models for it; nothing is trained here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from paretune.engines.behaviour.observed import Observed
from paretune.engines.behaviour.projections import keys_and_values
from paretune.spaces.behaviour import EarlyExit


class ExitTaker:
    """Runs the blocks of one token of every sequence.

    Args:
        rule: when to stop.
        read: hidden states ``(batch, 1, hidden_size)`` to logits ``(batch, 1, vocabulary)``.
        observed: counts.
    """

    def __init__(
        self, rule: EarlyExit, read: Callable[[torch.Tensor], torch.Tensor], observed: Observed
    ) -> None:
        self._rule = rule
        self._read = read
        self._observed = observed
        self._gone = torch.zeros(0, dtype=torch.bool)
        self._running = 0

    def step(
        self, block: Any, index: int, forward: Any, hidden: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        """The block, or the keys and values alone that it would have cached."""
        if index == 0:
            self._gone = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
            self._running = len(hidden)
        if not self._running:
            states = keys_and_values(block, hidden, options["position_embeddings"])
            options["past_key_values"].update(*states, block.self_attn.layer_idx)
            return hidden
        self._observed.decoded_blocks += self._running
        found = torch.as_tensor(forward(hidden, **options))
        if self._running < len(hidden):
            # What a gone sequence caches comes from its state at the exit, as the block's own input is that.
            found = torch.where(self._gone[:, None, None], hidden, found)
        if self._rule.from_block <= index < self._observed.blocks - 1:
            sure = confidence(self._read(found)[:, -1], self._rule.measure) > self._rule.confidence
            self._gone |= sure
            self._running = len(hidden) - int(self._gone.sum())
        return found


def confidence(logits: torch.Tensor, measure: str) -> torch.Tensor:
    """How sure a prediction is, float32 ``(batch,)``, 0 to 1; NaN, which exceeds nothing, where logits are.

    Args:
        logits: ``(batch, vocabulary)``.
        measure: see :class:`paretune.spaces.behaviour.EarlyExit`.
    """
    log_probs = logits.to(torch.float32).log_softmax(dim=-1)
    if measure == "probability":
        return log_probs.amax(dim=-1).exp()
    entropy = -(log_probs.exp() * log_probs.clamp_min(torch.finfo(torch.float32).min)).sum(dim=-1)
    return (1 - entropy / math.log(logits.shape[-1])).clamp(0.0, 1.0)

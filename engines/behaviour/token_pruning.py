"""Prompt tokens that the last one hardly looks at end after one block.

A token matters as much as the last one attends to it, averaged over heads, as in LazyLLM (Fu et al. 2024,
arXiv:2407.14057); tokens are dropped once, after one block, as in FastV (Chen et al. 2024, arXiv:2403.06764),
and never come back. Blocks up to that one cache the whole prompt, later ones the kept tokens, under the
positions they always had.
"""

from __future__ import annotations

from typing import Any

import torch

from paretune.engines.behaviour.observed import Observed
from paretune.engines.behaviour.projections import last_token_attention
from paretune.spaces.behaviour import TokenPruning
from paretune.spaces.errors import EngineError


class TokenPruner:
    """Runs the blocks of a prompt.

    Args:
        pruning: what to drop.
        observed: counts.
    """

    def __init__(self, pruning: TokenPruning, observed: Observed) -> None:
        self._pruning = pruning
        self._observed = observed
        self._kept: torch.Tensor | None = None

    def prompt(
        self, block: Any, index: int, forward: Any, hidden: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        """The block on a whole prompt, or on what is left of it."""
        if index == 0:
            self._kept = None
        if index > self._pruning.after_block and self._kept is not None:
            options = _narrowed(options, self._kept)
        found = torch.as_tensor(forward(hidden, **options))
        if index == self._pruning.after_block:
            found = self._drop(block, hidden, found, options)
        return found

    def step_options(self, index: int, hidden: torch.Tensor, options: dict[str, Any]) -> dict[str, Any]:
        """Options of a block for one more token: later blocks see all that they cached, however little it is.

        Raises:
            EngineError: several tokens after the prompt.
        """
        if hidden.shape[1] != 1:
            raise EngineError(
                f"{hidden.shape[1]} tokens after a pruned prompt",
                "blocks hold different tokens, so one mask does not fit them",
                "Feed them one by one",
            )
        return options if index <= self._pruning.after_block else {**options, "attention_mask": None}

    def _drop(
        self, block: Any, before: torch.Tensor, after: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        tokens = before.shape[1]
        kept = self._pruning.kept(tokens)
        self._observed.kept_tokens -= len(before) * (tokens - kept)
        if kept == tokens:
            return after
        attention = last_token_attention(block, before, options["position_embeddings"])
        self._kept = choose_tokens(attention, self._pruning)
        later = block.self_attn.layer_idx + 1
        for layer in options["past_key_values"].layers[later:]:
            # These layers are still empty: they need no room for what they will never see.
            layer.capacity -= tokens - kept
            layer.window -= tokens - kept
        return after.gather(1, self._kept[..., None].expand(-1, -1, after.shape[2]))


def choose_tokens(attention: torch.Tensor, pruning: TokenPruning) -> torch.Tensor:
    """Tokens that go on, in order, int64 ``(batch, kept)``; of equals the earlier one.

    Args:
        attention: received, ``(batch, tokens)``.
        pruning: how many, and which always.

    Raises:
        EngineError: attention is NaN or infinite.
    """
    if not bool(torch.isfinite(attention).all()):
        raise EngineError(
            f"attention of block {pruning.after_block}",
            "is not finite, so no token can be said to matter",
            "Use wider formats, or look at the model",
        )
    tokens = attention.shape[1]
    scores = attention.clone()
    scores[:, : pruning.first_tokens] = torch.inf
    scores[:, max(0, tokens - pruning.last_tokens) :] = torch.inf
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order[:, : pruning.kept(tokens)].sort(dim=1).values


def _narrowed(options: dict[str, Any], kept: torch.Tensor) -> dict[str, Any]:
    """Mask and positions of the kept tokens alone, ``kept`` ``(batch, kept)``."""
    found, batch = dict(options), len(kept)
    found["position_embeddings"] = tuple(
        angle.expand(batch, -1, -1).gather(1, kept[..., None].expand(-1, -1, angle.shape[2]))
        for angle in options["position_embeddings"]
    )
    positions = options.get("position_ids")
    if positions is not None:
        found["position_ids"] = positions.expand(batch, -1).gather(1, kept)
    mask = options.get("attention_mask")
    if mask is not None:
        # (batch, 1, queries, keys): no mask at all means causal, which kept tokens in order still are.
        rows = mask.expand(batch, -1, -1, -1)
        rows = rows.gather(2, kept[:, None, :, None].expand(-1, rows.shape[1], -1, rows.shape[3]))
        found["attention_mask"] = rows.gather(
            3, kept[:, None, None, :].expand(-1, rows.shape[1], rows.shape[2], -1)
        )
    return found

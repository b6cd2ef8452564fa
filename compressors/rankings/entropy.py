"""``entropy``: heads that look at everything alike are the least important.

A head's score is the mean over tokens of minus the entropy of its attention row (the measure of Clark et al. 2019,
arXiv:1906.04341), and a group's the mean of its query heads: the more diffuse, the lower. Heads that matter tend to be
confident ones (Voita et al. 2019, arXiv:1905.09418). A head that rests on the first token has a low entropy too, and is
ranked high though it may do nothing: the measure sees where a head looks, not what it adds.

Rows are longer where the text has gone on, so entropies are compared within a block, whose heads see the same tokens.
Attention is computed by the plain implementation, the only one that hands its weights out, block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from paretune.compressors.block_stream import BlockStream
from paretune.compressors.observation import RunningMean
from paretune.compressors.rankings.ranking import Ranking, Scene, head_layers
from paretune.spaces.errors import ModelError

_TOKENS_AT_ONCE = 1024
_REASON = "an entropy is that of attention rows, which only heads have"


class Entropy(Ranking):
    """Of the attention rows of every head on the calibration text."""

    name = "entropy"
    refusals = {"channels": _REASON, "blocks": _REASON, "width": _REASON}  # noqa: RUF012 -- never changed
    streams = True

    def scores(self, scene: Scene) -> dict[str, torch.Tensor]:
        """Minus the mean entropy in nats, by group of heads."""
        spec, layers = scene.spec, head_layers(scene.spec)
        if not layers:
            return {}
        means = {linear.name: RunningMean() for linear in layers}
        with plain_attention(scene.model):
            stream = BlockStream(scene.model, spec, scene.windows, _TOKENS_AT_ONCE)
            handles = []
            for linear in layers:
                module = scene.model.get_submodule(linear.name.rpartition(".")[0])
                handles.append(module.register_forward_hook(_watch(means[linear.name], linear.name)))
            try:
                for _ in range(spec.blocks):
                    stream.advance()
            finally:
                for handle in handles:
                    handle.remove()
        return {
            f"heads/{linear.block}": -means[linear.name].mean().view(spec.kv_heads, -1).mean(dim=1)
            for linear in layers
        }


def _watch(mean: RunningMean, layer: str) -> Any:
    def observe(_: Any, __: tuple[Any, ...], output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if weights is None:
            raise ModelError(
                f"attention before {layer}", "does not hand its weights out", "Rank by taylor or removal"
            )
        entropies = row_entropies(weights)
        rows = entropies.shape[0] * entropies.shape[2]
        mean.add(entropies.sum(dim=(0, 2)), torch.full((entropies.shape[1],), rows))

    return observe


def row_entropies(weights: torch.Tensor) -> torch.Tensor:
    """Entropies in nats ``(windows, heads, tokens)`` of attention weights ``(windows, heads, tokens, tokens)``."""
    entropies: torch.Tensor = torch.special.entr(weights.to(torch.float32)).sum(dim=-1)
    return entropies


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """The plain implementation of attention while the context is open."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before

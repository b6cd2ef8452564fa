"""``removal``: how far the model without a part is from the dense one, in KL on the calibration text.

Removal measured and not estimated: whatever later blocks make up for is counted, which magnitudes cannot see. A group
of heads is left out by zeros in what the output projection reads, a block by handing on its input: exactly what a
pruned model without it computes. What it costs is one pass per part, so only the first windows are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from paretune.compressors.divergence import Teacher
from paretune.compressors.rankings.ranking import Ranking, Scene, head_layers
from paretune.spaces.model import Linear, ModelSpec

_TOO_MANY = "it takes a pass of the text for every part, and there are thousands; taylor ranks them in one"
"""Why neither FFN channels nor hidden channels are ranked so."""


class Removal(Ranking):
    """Mean KL a token, in nats, of the dense model and the model without the part."""

    name = "removal"
    refusals = {"channels": _TOO_MANY, "width": _TOO_MANY}  # noqa: RUF012 -- never changed
    most_windows = 16

    def scores(self, scene: Scene) -> dict[str, torch.Tensor]:
        """Of every group of heads and every block."""
        teacher = Teacher(scene.model, scene.windows)
        return score_removals(
            scene.model, scene.spec, lambda: float(teacher.compare(scene.model).kl_tokens.mean())
        )


def score_removals(model: Any, spec: ModelSpec, damage: Callable[[], float]) -> dict[str, torch.Tensor]:
    """``damage`` of the model without each group of heads and without each block, as a ranking's scores."""
    found: dict[str, torch.Tensor] = {}
    for linear in head_layers(spec):
        scores = []
        for group in range(spec.kv_heads):
            with without_heads(model, linear, group, spec.kv_heads):
                scores.append(damage())
        found[f"heads/{linear.block}"] = torch.tensor(scores, dtype=torch.float32)
    scores = []
    for block in range(spec.blocks):
        with without_block(model, spec, block):
            scores.append(damage())
    return found | {"blocks": torch.tensor(scores, dtype=torch.float32)}


@contextmanager
def without_heads(model: Any, linear: Linear, group: int, groups: int) -> Iterator[None]:
    """The model without one group of query heads, whose output projection is ``linear``."""
    width = linear.in_features // groups

    def silence(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        silenced = inputs[0].clone()
        silenced[..., group * width : (group + 1) * width] = 0.0
        return (silenced, *inputs[1:])

    handle = model.get_submodule(linear.name).register_forward_pre_hook(silence)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def without_block(model: Any, spec: ModelSpec, block: int) -> Iterator[None]:
    """The model with a block that hands on its input."""

    def skip(_: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> Any:
        before = inputs[0] if inputs else options["hidden_states"]
        return (before, *output[1:]) if isinstance(output, tuple) else before

    module = model.get_submodule(f"{spec.block_path}.{block}")
    handle = module.register_forward_hook(skip, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()

"""How much the loss feels each weight: the mean size of ``dL/dw`` over windows, for first-order Taylor pruning.

The loss is that of the next token. Sizes are averaged window by window, so that windows that pull in opposite
directions do not cancel (Molchanov et al. 2019, arXiv:1906.10771, average squares over batches to the same end).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from paretune.compressors.streamed_model import StreamedModel
from paretune.compressors.windows import TokenWindows
from paretune.spaces.errors import ModelError
from paretune.spaces.model import Linear, ModelSpec

_BUDGET_BYTES = 2 << 30
"""Of gradients and their means at once; a model that has more takes as many passes of the text."""
_MOST_WINDOWS = 64


def gradient_bytes(spec: ModelSpec) -> int:
    """Bytes of all means, as they are kept."""
    return sum(2 * linear.weights for linear in spec.block_linears)


def gather_gradients(
    model: Any, spec: ModelSpec, windows: TokenWindows
) -> Iterator[tuple[str, torch.Tensor]]:
    """Layers inside the blocks and their means, bfloat16, output rows first (experts in front), on the CPU.

    Args:
        model: whole, in its dense state; its parameters are frozen again afterwards.
        spec: of the model.
        windows: calibration text; the first 64 are read.

    Raises:
        ModelError: the model is streamed.
    """
    if isinstance(model, StreamedModel):
        raise ModelError(
            "gradients of a streamed model", "need all of it in memory", "Load it whole, or use wanda"
        )
    windows.check_vocabulary(spec.vocabulary)
    for part in _parts(spec):
        yield from _means(model, part, windows)


def _parts(spec: ModelSpec) -> Iterator[list[Linear]]:
    """Layers whose gradients fit the budget together, at least one."""
    part: list[Linear] = []
    used = 0
    for linear in spec.block_linears:
        size = 8 * linear.weights
        if part and used + size > _BUDGET_BYTES:
            yield part
            part, used = [], 0
        part.append(linear)
        used += size
    if part:
        yield part


def _means(model: Any, part: Sequence[Linear], windows: TokenWindows) -> Iterator[tuple[str, torch.Tensor]]:
    weights = {linear.name: model.get_parameter(linear.parameter) for linear in part}
    sums: dict[str, torch.Tensor] = {}
    read = windows.ids[:_MOST_WINDOWS]
    with torch.inference_mode(mode=False), torch.enable_grad():
        try:
            for weight in weights.values():
                weight.requires_grad_(True)
            for ids in read:
                _backward(model, ids[None].to(model.device))
                for name, weight in weights.items():
                    if weight.grad is not None:  # an expert that no token of the window reached has none
                        size = weight.grad.to(torch.float32).abs_()
                        sums[name] = sums[name].add_(size) if name in sums else size
                        weight.grad = None
        finally:
            for weight in weights.values():
                weight.grad = None
                weight.requires_grad_(False)
    for linear in part:
        found = sums.get(linear.name)
        mean = torch.zeros(linear.stored_shape) if found is None else found.div_(len(read)).cpu()
        rows_first = mean.t() if linear.transposed else mean
        yield linear.name, rows_first.to(torch.bfloat16).contiguous()


def _backward(model: Any, ids: torch.Tensor) -> None:
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].to(torch.float32)
    torch.autograd.backward(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))

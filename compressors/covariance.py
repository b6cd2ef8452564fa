"""Second moments of the inputs of every linear, ``E[x x^T]``: what GPTQ calls the Hessian, up to a factor of two.

Gathered block by block, one block's matrices in memory at a time. Linears that read the same input (query, key
and value; gate and up) share one matrix: the first of them keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch

from paretune.compressors.block_stream import BlockStream
from paretune.compressors.observation import FIRST_OF_EXPERTS, RunningMean, inputs_of_experts, routed
from paretune.compressors.windows import TokenWindows
from paretune.spaces.model import Linear, ModelSpec, Role

_TOKENS_AT_ONCE = 4096
_SHARED: dict[str, Role] = {"k": "q", "v": "q", "up": "gate"}
"""Roles that read what another role reads."""


def keeper(spec: ModelSpec, linear: Linear) -> Linear:
    """The linear under whose name the covariance of ``linear``'s input is kept."""
    first = _SHARED.get(linear.role)
    if first is None:
        return linear
    return next((x for x in spec.of_role(first) if x.block == linear.block), linear)


def covariance_bytes(spec: ModelSpec, known: Collection[str] = ()) -> int:
    """Bytes of all covariances in float32, without those of the keepers in ``known``."""
    kept = {keeper(spec, x).name: keeper(spec, x) for x in spec.block_linears}
    return sum(4 * x.experts * x.in_features**2 for name, x in kept.items() if name not in known)


def gather_covariances(
    model: Any, spec: ModelSpec, windows: TokenWindows, known: Collection[str] = ()
) -> Iterator[tuple[str, torch.Tensor]]:
    """Names of keepers and their covariances, float32 ``(experts, in, in)`` or ``(in, in)``, on the CPU.

    Args:
        model: in its dense state.
        spec: of the model.
        windows: calibration text.
        known: keepers that are not asked for; a block that has no others is run and not observed.
    """
    windows.check_vocabulary(spec.vocabulary)
    stream = BlockStream(model, spec, windows, _TOKENS_AT_ONCE)
    for block in range(spec.blocks):
        watched = [x for x in spec.block_linears if x.block == block and keeper(spec, x) is x]
        watched = [] if all(x.name in known for x in watched) else watched
        sums = _summed(model, watched, stream.advance)
        for name in [name for name in sums if name not in known]:
            yield name, sums[name].take().cpu().contiguous()


def observe_covariances(
    model: Any, stream: BlockStream, watched: Collection[Linear]
) -> dict[str, torch.Tensor]:
    """Covariances of some layers of the block that comes next, which is run and not passed; see above.

    Args:
        model: finds the modules of layers by their names.
        stream: before the block.
        watched: keepers in it, of experts the first projection.
    """
    found = _summed(model, watched, stream.observe)
    return {name: sums.mean().cpu().contiguous() for name, sums in found.items()}


def _summed(model: Any, watched: Collection[Linear], run: Callable[[], None]) -> dict[str, RunningMean]:
    """What the layers' inputs were during ``run``; the hook of an expert's first projection sees both."""
    downs = [_down(x) for x in watched if x.role in FIRST_OF_EXPERTS]
    sums = {name: RunningMean() for name in (*(x.name for x in watched), *downs)}
    handles = [_watch(model, x, sums) for x in watched if x.role != "expert_down"]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return sums


def _down(first: Linear) -> str:
    """The second projection of the experts whose first one is given."""
    return f"{first.name.rpartition('.')[0]}.down_proj"


def _watch(model: Any, linear: Linear, sums: dict[str, RunningMean]) -> Any:
    if linear.role in FIRST_OF_EXPERTS:
        return _watch_experts(model, linear, sums)

    def observe(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = inputs[0].reshape(-1, inputs[0].shape[-1]).to(torch.float32)
        sums[linear.name].add(rows.t() @ rows, len(rows))

    return model.get_submodule(linear.name).register_forward_pre_hook(observe)


def _watch_experts(model: Any, linear: Linear, sums: dict[str, RunningMean]) -> Any:
    down = _down(linear)

    def observe(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        hidden, chosen = routed(module, inputs)
        outer, inner, counts = [], [], []
        for _, entered, product in inputs_of_experts(module, hidden, chosen):
            rows = entered.to(torch.float32)
            outer.append(rows.t() @ rows)
            inner.append(product.t() @ product)
            counts.append(len(rows))
        count = torch.tensor(counts, device=hidden.device)
        sums[linear.name].add(torch.stack(outer), count)
        sums[down].add(torch.stack(inner), count)

    return model.get_submodule(linear.name.rpartition(".")[0]).register_forward_pre_hook(observe)

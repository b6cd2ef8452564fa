"""A block as AWQ (Lin et al. 2023, arXiv:2306.00978) scales it before rounding: same function, other tensors.

Scaled are the inputs of query, key and value, and of gate and up (undone in the norm before them), of the output
projection (undone in the rows of the values; heads that share values share scales) and of down (undone in the rows of
up), where channels pass linearly. Places that do not are left, with a reason, and their linears are rounded as they
are; so are experts, whose norm a router reads too.

A norm's gain is stored in the model's dtype. So a scale is what the rounded gain makes of it, and the weights make up
for exactly that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from paretune.compressors.covariance import keeper
from paretune.compressors.scale_search import Readers, find_scales
from paretune.compressors.statistics import LayerStatistics
from paretune.compressors.transforms.passages import Place, norm_places, passage_places
from paretune.compressors.transforms.structure import NormGroup, unknown_structure
from paretune.compressors.weight_source import WeightSource
from paretune.spaces.formats import WeightFormat
from paretune.spaces.model import FixedTensor, Linear, ModelSpec

Seen = Callable[[Linear], LayerStatistics | None]
"""Statistics of a layer's input, with its covariance."""


class BlockCopy:
    """The tensors of one block in float32, found by the look-ups of :mod:`paretune.compressors.transforms.structure`.

    A bank must not change the model that it describes, nor read it: what the model holds may be a candidate.

    Args:
        source: of the dense tensors.
        config: of the model, as ``transformers`` has it.
        block: index.

    Attributes:
        config: of the model.
    """

    def __init__(self, source: WeightSource, config: Any, block: int) -> None:
        self.config = config
        spec = source.spec
        self._tensors: dict[str, torch.Tensor] = {}
        for linear in spec.block_linears:
            if linear.block == block:
                self._tensors[linear.parameter] = _copy(source, linear)
        for fixed in spec.fixed:
            if fixed.block == block:
                self._tensors[fixed.name] = source.tensor(fixed.name).to(torch.float32, copy=True)

    def get_parameter(self, name: str) -> torch.Tensor:
        """The copy itself: what is written to it stays."""
        return self._tensors[name]

    def get_submodule(self, path: str) -> SimpleNamespace:
        """The tensors right below ``path`` as attributes."""
        split = ((name.rpartition("."), tensor) for name, tensor in self._tensors.items())
        return SimpleNamespace(**{last: tensor for (head, _, last), tensor in split if head == path})

    def rows(self, linear: Linear) -> torch.Tensor:
        """The weight of a layer, output rows first."""
        weight = self._tensors[linear.parameter]
        return weight.t() if linear.transposed else weight


def _copy(source: WeightSource, linear: Linear) -> torch.Tensor:
    if linear.experts > 1:  # never scaled, and large: the shape is all that is looked at
        return torch.empty(linear.stored_shape, device="meta")
    return source.tensor(linear.parameter).to(torch.float32, copy=True)


@dataclass
class ScaledBlock:
    """A source of the scaled rows of one block.

    Attributes:
        source: of the dense tensors.
        copy: of the block, scaled in place.
        scales: of the inputs of layers, ``(in,)``, where they are scaled.
        left: places that cannot be scaled, and why.
    """

    source: WeightSource
    copy: BlockCopy
    scales: dict[str, torch.Tensor] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.source.device

    def rows(self, linear: Linear, expert: int, start: int, stop: int) -> torch.Tensor:
        """Scaled output rows ``start`` to ``stop``, float32 ``(rows, in_features)``; experts as they are."""
        if linear.experts > 1:
            return self.source.rows(linear, expert, start, stop)
        return self.copy.rows(linear)[start:stop].contiguous()

    def seen(self, linear: Linear, seen: LayerStatistics | None) -> LayerStatistics | None:
        """Statistics of the scaled input."""
        scales = self.scales.get(linear.name)
        if seen is None or scales is None or seen.covariance is None:
            return seen
        wide = scales.to(seen.covariance.device)
        moment = seen.second_moment / wide.to(seen.second_moment.device).square()
        return LayerStatistics(moment, seen.covariance / torch.outer(wide, wide))

    def fixed(self) -> dict[str, torch.Tensor]:
        """Norm gains and biases that differ from the dense block's, as they are stored."""
        spec = self.source.spec
        dtype = getattr(torch, spec.dtype)
        blocks = {x.block for x in spec.block_linears if x.name in self.scales}
        found = {}
        for tensor in (x for block in blocks if block is not None for x in scalable_fixed(spec, block)):
            now = self.copy.get_parameter(tensor.name)
            if not torch.equal(now, self.source.tensor(tensor.name).to(now)):
                found[tensor.name] = now.to("cpu", dtype).contiguous()
        return found


def scalable_fixed(spec: ModelSpec, block: int) -> tuple[FixedTensor, ...]:
    """Fixed tensors of a block that may carry scales: its vectors."""
    return tuple(x for x in spec.fixed if x.block == block and len(x.shape) == 1 and x.kind != "buffer")


def scale_block(
    source: WeightSource,
    model: Any,
    block: int,
    weight_format: WeightFormat,
    scale_dtype: torch.dtype,
    seen: Seen,
) -> ScaledBlock:
    """Search the scales of every place of a block, one after the other.

    Args:
        source: of the dense tensors.
        model: whose configuration and modules tell the structure; its tensors are not read.
        block: index.
        weight_format: that the block is rounded to.
        scale_dtype: of its scales.
        seen: statistics of layers.

    Raises:
        ModelError: a covariance that is not finite.
    """
    spec = source.spec
    found = ScaledBlock(source, BlockCopy(source, model.config, block))
    places, found.left = find_places(model, found.copy, spec, block)
    for place in places:
        statistics = seen(keeper(spec, spec.linear(place.layers[0])))
        if statistics is None or statistics.covariance is None:
            continue
        covariance = statistics.covariance.to(source.device)
        wanted = find_scales(Readers(place.weights, covariance, place.shape, weight_format, scale_dtype))
        if wanted is not None:
            factors = 1.0 / wanted.to(torch.float64)
            if place.norm is not None:
                factors = stored_factors(place.norm, factors[0], getattr(torch, spec.dtype))[None]
            place.multiply(factors)
            found.scales |= dict.fromkeys(place.layers, place.spread((1.0 / factors).to(torch.float32)))
    return found


def find_places(
    model: Any, copy: BlockCopy, spec: ModelSpec, block: int
) -> tuple[list[Place], dict[str, str]]:
    """Places of a block in the order that they are scaled in, and those that are left, with the reason."""
    reason = unknown_structure(model, spec)
    path = f"{spec.block_path}.{block}"
    if reason is not None:
        return [], {path: reason}
    places, left = [], {}
    for place in norm_places(copy, spec, block):
        read = () if place.norm is None else place.norm.readers
        if len(place.layers) < len(read) or any(spec.linear(layer).experts > 1 for layer in place.layers):
            left[place.name] = "a router and the experts of a mixture read it, each with tokens of its own"
        else:
            places.append(place)
    passing, reason = passage_places(copy, spec, block)
    return places + passing, left | ({} if reason is None else {f"{path} (down)": reason})


def stored_factors(group: NormGroup, factors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The factors that a norm has when its gain is rounded to ``dtype``; one where a gain vanishes."""
    gain = group.gain.to(torch.float64) + group.offset
    rounded = (gain * factors - group.offset).to(dtype).to(torch.float64) + group.offset
    found = rounded / gain
    return torch.where(found.isfinite() & (found > 0), found, torch.ones_like(found))

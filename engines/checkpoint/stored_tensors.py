"""The tensors of an export, one after the other: what compressed-tensors calls each and what is in it.

Names are those of the model in ``transformers``, so that nothing is renamed on loading: a renamed tensor of a
quantized checkpoint keeps its stored dtype whatever dtype is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from paretune.compressors.expert_names import expert_modules, plain_name
from paretune.compressors.input_rounding import input_factor
from paretune.compressors.quantizers import QuantizedWeight
from paretune.engines.checkpoint.weight_containers import Named, weight_tensors
from paretune.engines.runtime.candidate_model import kept_name
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.choice import UNTOUCHED
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.methods import scaled_blocks
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_linears, lies_unpacked

if TYPE_CHECKING:
    from paretune.compressors.bank import Bank


class StoredTensors:
    """What is written for a candidate.

    Args:
        spec: of the dense model.
        bank: with the weights.
        config: of the candidate.
        published_names: whether names are the published ones although something is quantized.
        pack: how the codes of a linear are stored; another form of checkpoint has another packing.
    """

    def __init__(
        self,
        spec: ModelSpec,
        bank: Bank,
        config: CompressionConfig,
        *,
        published_names: bool = False,
        pack: Callable[..., Named] = weight_tensors,
    ) -> None:
        self._spec = spec
        self._pack = pack
        self._bank = bank
        self._config = config
        self._dtype: torch.dtype = getattr(torch, spec.dtype)
        self._factors: dict[str, torch.Tensor] = {}
        self._plain = published_names or all(choice.weight.dense for choice in config.layers.values())

    def __iter__(self) -> Named:
        """Every tensor, contiguous and on the CPU, in the order of the model."""
        for linear in kept_linears(self._spec, self._config):
            yield from self._layer(linear)
        scaled = scaled_blocks(self._spec, self._config)
        for fixed in self._spec.fixed:
            if self._config.keeps_block(fixed.block):
                choice = UNTOUCHED if fixed.block is None else scaled.get(fixed.block, UNTOUCHED)
                value = self._bank.fixed(fixed.name, self._config.pruned, choice)
                yield self._final_name(fixed.name), self._dense(value)

    def _layer(self, linear: Linear) -> Named:
        weight = self._config.choice(linear.name).weight
        if weight.dense:
            yield from self._dense_layer(linear)
        elif linear.role == "embedding" and weight.num_bits == 8:
            yield from self._embedding(linear)
        elif linear.role.startswith("expert"):
            for expert in range(linear.experts):
                yield from self._expert(linear, expert)
        else:
            path = self._final_name(linear.name)
            unpacked = lies_unpacked(linear, self._config.choice(linear.name))
            yield from self._pack(path, self._codes(linear), weight, unpacked=unpacked)
            yield from self._inputs(linear, path)

    def _dense_layer(self, linear: Linear) -> Named:
        choice, pruned = self._config.choice(linear.name), self._config.pruned
        value = self._dense(self._bank.tensor(linear.name, choice, pruned))
        if not (self._plain and linear.role.startswith("expert")):
            # Beside quantized tensors, dense experts are found only under the name of their parameter.
            yield kept_name(self._spec, pruned, linear.parameter), value
            return
        for expert in range(linear.experts):
            modules = expert_modules(self._spec, linear, expert)
            for module, part in zip(modules, value[expert].chunk(linear.pieces), strict=True):
                yield self._final_name(f"{module}.weight"), part.clone()

    def _embedding(self, linear: Linear) -> Named:
        found = self._codes(linear)
        yield f"{linear.name}.weight", found.codes.cpu().contiguous()
        for owner in (linear.name, self._spec.head.name) if self._spec.tied else (linear.name,):
            yield f"{owner}.weight_scale", found.scales.cpu().contiguous().clone()
            if found.zeros is not None:
                yield f"{owner}.weight_zero_point", found.zeros.cpu().contiguous().clone()

    def _expert(self, linear: Linear, expert: int) -> Named:
        choice, found = self._config.choice(linear.name), self._codes(linear, expert)
        modules = expert_modules(self._spec, linear, expert)
        rows = found.codes.shape[0] // linear.pieces
        for piece, module in enumerate(modules):
            part, path = found.rows(piece * rows, (piece + 1) * rows), self._final_name(module)
            yield from weight_tensors(path, part, choice.weight, unpacked=lies_unpacked(linear, choice))
            yield from self._inputs(linear, path)

    def _inputs(self, linear: Linear, path: str) -> Named:
        """What calibration gave a static input: its scale, or the factor over the scales of groups."""
        activation = self._config.choice(linear.name).activation
        if activation is None or not activation.calibrated:
            return
        factor = self._factor(linear, activation)
        name = "input_scale" if activation.scale == "model" else "input_global_scale"
        dtype = self._dtype if activation.scale == "model" else torch.float32
        yield f"{path}.{name}", factor.to("cpu", dtype).reshape(1)

    def _factor(self, linear: Linear, wanted: ActivationFormat) -> torch.Tensor:
        """Of the layer, once: hundreds of experts store the same number."""
        if linear.name not in self._factors:
            self._factors[linear.name] = input_factor(
                self._spec, self._bank.statistics, linear, wanted, self._config.pruned, self._dtype
            )
        return self._factors[linear.name]

    def _codes(self, linear: Linear, expert: int = 0) -> QuantizedWeight:
        choice = self._config.choice(linear.name)
        found = self._bank.quantized(linear.name, choice, self._config.pruned, expert)
        if found is None:
            raise TypeError(f"the bank has no codes of {linear.name} at {choice.name}")
        return found

    def _dense(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(device="cpu", dtype=self._dtype).contiguous()

    def _final_name(self, name: str) -> str:
        name = kept_name(self._spec, self._config.pruned, name)
        return plain_name(self._spec, name) if self._plain else name

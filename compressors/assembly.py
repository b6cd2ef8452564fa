"""The assembler: puts a candidate together inside one loaded model by swapping what changed.

A swap sets the data pointer of a parameter to a dense copy; nothing is copied while copies fit the memory
budget, and above it the bank's packed codes are dequantized again when they are needed. The model object is
always the same one, and the dense configuration puts back the very tensors that were loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from paretune.compressors.cache_rounding import CacheRounding
from paretune.compressors.cutting import Structure
from paretune.compressors.entries import Entry
from paretune.compressors.entry_store import Held
from paretune.compressors.input_rounding import InputRounding
from paretune.compressors.pruned_sizes import ruling, touched
from paretune.compressors.scaled_block import scalable_fixed
from paretune.compressors.weight_provider import WeightProvider
from paretune.spaces.choice import UNTOUCHED, LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, WHOLE, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.interrupts import uninterrupted
from paretune.spaces.methods import check_closures, scaled_blocks
from paretune.spaces.model import FixedTensor, Linear, ModelSpec
from paretune.spaces.size import kept_linears

DEFAULT_BUDGET_BYTES = 4 * 2**30


@dataclass
class _Slot:
    """A parameter: what was loaded, and what it holds now."""

    parameter: torch.nn.Parameter
    dense: torch.Tensor
    choice: LayerChoice = UNTOUCHED
    pruned: PrunedShape = WHOLE
    rounded: bool = False


_Swap = tuple[_Slot, torch.Tensor, LayerChoice, PrunedShape, bool]
"""A parameter, and what it holds from then on; whether it was expanded in the dtype of its scales."""


class Assembler:
    """Assembles candidates in ``model``, which must be in its dense state and is changed from then on.

    Args:
        model: from :func:`paretune.compressors.loading.load_dense`.
        spec: of the model.
        bank: of the same model, or what stands in for it.
        memory_budget_bytes: for dense copies.
    """

    def __init__(
        self,
        model: Any,
        spec: ModelSpec,
        bank: WeightProvider,
        memory_budget_bytes: int = DEFAULT_BUDGET_BYTES,
    ) -> None:
        self.model = model
        self.spec = spec
        self.bank = bank
        self.config = DENSE_CONFIG
        self.swapped = 0
        self._slots = {name: _Slot(p, p.data) for name, p in model.named_parameters()}
        self._cut_fixed = [x for x in spec.fixed if (x.axis, x.inner_axis) != ("none", "none")]
        self._scaled_fixed = [x for block in range(spec.blocks) for x in scalable_fixed(spec, block)]
        self._copies: Held[torch.Tensor] = Held(memory_budget_bytes, lambda tensor: tensor.nbytes)
        self._structure = Structure(model, spec)
        self._inputs = InputRounding(model, spec, bank.statistics, bank.scale_dtype)
        self._cache = CacheRounding(model, bank.scale_dtype)

    def apply(self, config: CompressionConfig) -> Any:
        """Make the model the candidate ``config``, and return it; always the same object.

        Sets :attr:`swapped` to the number of parameters that changed hands.

        Raises:
            ConfigurationError: an unknown layer, a pruned model that cannot be cut, a tied pair that disagrees.
            RunError: the bank is damaged, or cannot be written to.
        """
        self._check(config)
        # Tensors made while the caller is in inference mode could not become parameters.
        with torch.inference_mode(mode=False):
            swaps = self._weight_swaps(config)
        with uninterrupted():  # a parameter whose choice is that of another tensor would be scored as it
            self._inputs.apply(_input_formats(config), config.pruned)
            self._structure.apply(config.pruned)
            for slot, tensor, choice, pruned, rounded in swaps:
                slot.parameter.data = tensor
                slot.choice, slot.pruned, slot.rounded = choice, pruned, rounded
            self._cache.apply(config.kv)
            self.swapped = len(swaps)
            self.config = config
        return self.model

    def free(self) -> bool:
        """Hold half as many expanded weights as now, from now on; whether there was anything to let go of."""
        held = self._copies.held_bytes
        self._copies.shrink(held // 2)
        return held > 0

    def _weight_swaps(self, config: CompressionConfig) -> list[_Swap]:
        """What changes hands. Every tensor is made before the first is swapped: a failure changes nothing."""
        swaps: list[_Swap] = []
        for linear in kept_linears(self.spec, config):
            slot, choice = self._slots[linear.parameter], config.choice(linear.name)
            pruned = WHOLE if config.pruned.whole else touched(linear, config.pruned)
            rounded = config.rounded_experts and linear.role.startswith("expert") and not choice.weight.dense
            same = (choice is slot.choice or choice == slot.choice) and rounded == slot.rounded
            if same and pruned == slot.pruned:
                continue
            weight = self._weight(slot, linear, choice, pruned, rounded)
            swaps.append((slot, weight, choice, pruned, rounded))
        return swaps + self._fixed_swaps(config)

    def _fixed_swaps(self, config: CompressionConfig) -> list[_Swap]:
        """Fixed tensors that the pruned model cuts, or that are scaled with their block."""
        swaps = []
        scaled = scaled_blocks(self.spec, config)
        anyone = bool(scaled) or any(self._slots[x.name].choice.method != "none" for x in self._scaled_fixed)
        for fixed in dict.fromkeys([*self._cut_fixed, *(self._scaled_fixed if anyone else ())]):
            slot, pruned = self._slots[fixed.name], touched(fixed, config.pruned)
            choice = UNTOUCHED if fixed.block is None else scaled.get(fixed.block, UNTOUCHED)
            if config.keeps_block(fixed.block) and (pruned != slot.pruned or choice != slot.choice):
                swaps.append((slot, self._fixed(slot, fixed, choice, pruned), choice, pruned, False))
        return swaps

    def _fixed(
        self, slot: _Slot, fixed: FixedTensor, choice: LayerChoice, pruned: PrunedShape
    ) -> torch.Tensor:
        if choice == UNTOUCHED and pruned.whole:
            return slot.dense

        def make() -> torch.Tensor:
            return self.bank.fixed(fixed.name, pruned, choice).to(slot.dense)

        return make() if choice == UNTOUCHED else self._copies.get(f"{fixed.name}/{choice.name}", make)

    def _weight(
        self, slot: _Slot, linear: Linear, choice: LayerChoice, pruned: PrunedShape, rounded: bool
    ) -> torch.Tensor:
        entry = Entry.of(self.spec, linear, choice, pruned)
        if not entry.stored and pruned.whole:
            return slot.dense

        def make() -> torch.Tensor:
            dtype = self.bank.scale_dtype if rounded else slot.dense.dtype
            return self.bank.tensor(linear.name, choice, pruned, dtype).to(slot.dense).contiguous()

        return self._copies.get(f"{entry.name}, rounded" if rounded else entry.name, make)

    def _check(self, config: CompressionConfig) -> None:
        for layer in config.layers:
            linear = self.spec.linear(layer)
            if not config.keeps_block(linear.block):
                raise ConfigurationError(
                    f"a choice for {layer}", "the pruned model lacks its block", "Leave the layer out"
                )
        check_closures(self.spec, config)
        config.kv.check_blocks(len(self.spec.cache))
        verdict = ruling(self.spec, config.pruned)
        if not verdict:
            raise ConfigurationError(
                f"pruned model {config.pruned.name}", verdict.reason, "Choose another size"
            )
        head, embedding = self.spec.head.name, self.spec.embedding.name
        if self.spec.tied and head in config.layers and config.choice(head) != config.choice(embedding):
            raise ConfigurationError(
                f"a choice for {head} of its own",
                f"it is one tensor with {embedding}",
                f"Choose for {embedding} alone",
            )


def _input_formats(config: CompressionConfig) -> dict[str, Any]:
    return {
        layer: choice.activation for layer, choice in config.layers.items() if choice.activation is not None
    }

"""GPTQ again for a chosen configuration, in sequence: every layer sees what the compressed model feeds it.

The bank rounds against the dense model's inputs, so that an entry does not depend on the choices before it. Once the
configuration is chosen nothing speaks against the original order (Frantar et al. 2022, arXiv:2210.17323): block after
block, and within a block input after input (query, key and value; output; gate and up; down), each covariance is
gathered from the model in which everything before is compressed already. Formats, zeros and cuts stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from paretune.compressors.assembly import Assembler
from paretune.compressors.block_stream import BlockStream
from paretune.compressors.covariance import keeper, observe_covariances
from paretune.compressors.entries import Entry, slabs
from paretune.compressors.quantizers import QuantizedWeight, find_quantizer
from paretune.compressors.quantizers.quantized_weight import join_rows
from paretune.compressors.statistics import LayerStatistics
from paretune.compressors.weight_source import WeightSource
from paretune.compressors.windows import TokenWindows
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.model import Linear, ModelSpec

METHOD = "gptq"
_TOKENS_AT_ONCE = 4096

Progress = Callable[[str, int, int], None]
"""Called with the layer that is rounded, how many are done and how many there are."""


def refine(
    assembler: Assembler,
    config: CompressionConfig,
    windows: TokenWindows,
    progress: Progress | None = None,
) -> dict[str, QuantizedWeight]:
    """Codes of all layers inside the blocks whose method is ``gptq``, output rows first, experts one below the other.

    Args:
        assembler: whose model is ``config`` afterwards, with the bank's weights.
        config: the configuration; its other layers stay as the bank has them.
        windows: calibration text.
        progress: told of every layer.

    Raises:
        ConfigurationError: no such layer.
        ModelError: covariances that are not finite.
    """
    refined = [x for x in assembler.spec.block_linears if config.choice(x.name).method == METHOD]
    refined = [x for x in refined if config.keeps_block(x.block)]
    if not refined:
        raise ConfigurationError(
            "a configuration without layers of method gptq in its blocks",
            "has nothing to refine",
            "Choose gptq for some layers, or export without refining",
        )
    windows.check_vocabulary(assembler.spec.vocabulary)
    work = _Refinement(assembler, config, refined)
    found: dict[str, QuantizedWeight] = {}
    try:
        for name, one in work.run(windows):
            found[name] = one
            if progress is not None:
                progress(name, len(found), len(refined))
    finally:
        work.undo()
    return found


class _Refinement:
    """A model on its way from the bank's weights to refined ones."""

    def __init__(self, assembler: Assembler, config: CompressionConfig, refined: Sequence[Linear]) -> None:
        dense = assembler.apply(DENSE_CONFIG)
        # Dense tensors and modules by the names of the whole model; a pruned model's blocks are numbered anew.
        self._source = WeightSource(None, dense, assembler.spec)
        self._slots = dict(dense.named_parameters())
        self._modules = dict(dense.named_modules())
        self._assembler, self._spec, self._refined = assembler, assembler.spec, refined
        assembler.apply(config)
        self._before = {x.parameter: self._slots[x.parameter].data for x in refined}

    def run(self, windows: TokenWindows) -> Iterator[tuple[str, QuantizedWeight]]:
        """Layer by layer in the order of execution; the model holds each from then on."""
        stream = BlockStream(self._assembler.model, self._spec, windows, _TOKENS_AT_ONCE)
        blocks = self._assembler.config.pruned.blocks
        for block in range(self._spec.blocks) if blocks is None else blocks:
            for together in _by_input(self._spec, [x for x in self._refined if x.block == block]):
                first = keeper(self._spec, together[0])
                covariance = observe_covariances(self, stream, [_hooked(self._spec, first)])[first.name]
                for linear in together:
                    found = self._round(linear, covariance)
                    self._put(linear, found)
                    yield linear.name, found
            stream.advance()

    def undo(self) -> None:
        """Put back the bank's weights."""
        for name, tensor in self._before.items():
            self._slots[name].data = tensor

    def get_submodule(self, name: str) -> Any:
        """By the name that the whole model knows it under."""
        return self._modules[name]

    def _round(self, linear: Linear, covariance: torch.Tensor) -> QuantizedWeight:
        config, bank = self._assembler.config, self._assembler.bank
        entry = Entry.of(self._spec, linear, config.choice(linear.name), config.pruned)
        # Masks follow the statistics of the dense model, as in the bank; so zeros stay where they were.
        parts = slabs(entry, self._source, bank.statistics, bank.observations.seen(entry), whole=True)
        gptq, found = find_quantizer(METHOD), []
        for expert, slab in enumerate(parts):
            seen = covariance if covariance.ndim == 2 else covariance[expert]
            statistics = LayerStatistics(seen.diagonal().clone(), seen)
            found.append(
                gptq.quantize(slab.weight, entry.choice.weight, statistics, bank.scale_dtype, linear.name)
            )
        return join_rows(found)

    def _put(self, linear: Linear, found: QuantizedWeight) -> None:
        slot = self._slots[linear.parameter]
        with torch.inference_mode(mode=False):
            matrix = found.dequantize().to(slot.dtype)
            slot.data = (matrix.t() if linear.transposed else matrix.view(slot.shape)).contiguous()


def _by_input(spec: ModelSpec, linears: Sequence[Linear]) -> list[list[Linear]]:
    """Layers that read the same input together, in the order of execution."""
    groups: dict[str, list[Linear]] = {}
    for linear in linears:
        groups.setdefault(keeper(spec, linear).name, []).append(linear)
    return list(groups.values())


def _hooked(spec: ModelSpec, linear: Linear) -> Linear:
    """The layer whose module shows the input: experts show that of their second projection at their first."""
    if linear.role != "expert_down":
        return linear
    return next(x for x in spec.of_role("expert_gate_up") if x.block == linear.block)

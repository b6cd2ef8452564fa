"""Learned rounding of a whole model, block by block (:mod:`paretune.compressors.training.block_rounding`).

Blocks see either what the dense model feeds them, so that a block's entry does not depend on what was chosen for the
blocks before it, or what the blocks already rounded make of the text, with the dense model's outputs as targets: the
latter makes up for earlier errors and belongs to one configuration alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from paretune.compressors.block_stream import BlockStream
from paretune.compressors.quantizers import QuantizedWeight
from paretune.compressors.streamed_model import resident_block
from paretune.compressors.training.block_rounding import BlockLayer, RoundingSettings, tune_block
from paretune.compressors.windows import TokenWindows
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.formats import WeightFormat
from paretune.spaces.model import ModelSpec


def tune_model(
    model: Any,
    spec: ModelSpec,
    windows: TokenWindows,
    formats: Mapping[str, WeightFormat],
    settings: RoundingSettings,
    sequential: bool = False,
) -> Iterator[tuple[str, QuantizedWeight]]:
    """Layers and their codes, block by block; one block's hidden states in memory.

    Experts held in one parameter are tuned like any other layer, one below the other as the bank keeps them; routing
    follows the rounded block.

    Args:
        model: in its dense state, whole or streamed; it is in that state again whenever something is yielded.
        spec: of the model.
        windows: calibration text.
        formats: by layer; layers that are not named stay dense.
        settings: of training.
        sequential: inputs come from the rounded blocks before, targets from the dense model.

    Raises:
        ConfigurationError: a layer outside the blocks.
        FormatError: a format that is not trained, or does not fit its layer.
        ModelError: an unknown layer; weights or hidden states that are not finite.
    """
    outside = [name for name in formats if spec.linear(name).block is None]
    if outside:
        raise ConfigurationError(
            f"layer {outside[0]}",
            "is in no block, and rounding is learned block by block",
            "Use rtn or gptq for it",
        )
    windows.check_vocabulary(spec.vocabulary)
    at_once = settings.batch_windows * windows.window_tokens
    dense = BlockStream(model, spec, windows, at_once)
    rounded = BlockStream(model, spec, windows, at_once) if sequential else dense
    batch = min(settings.batch_windows, windows.count)
    for index, block in enumerate(model.get_submodule(spec.block_path)):
        layers = _layers(spec, index, formats)
        inputs = torch.cat(rounded.hidden)
        options = rounded.options(batch, windows.window_tokens)
        with resident_block(model, index):
            dense.advance()
            found = {}
            if layers:
                found = tune_block(block, layers, inputs, torch.cat(dense.hidden), options, settings)
            if sequential:
                _advance_with(rounded, block, layers, found)
        yield from found.items()


def _layers(spec: ModelSpec, block: int, formats: Mapping[str, WeightFormat]) -> dict[str, BlockLayer]:
    prefix = f"{spec.block_path}.{block}."
    return {
        x.name: BlockLayer(x.parameter.removeprefix(prefix), formats[x.name], x.transposed)
        for x in spec.block_linears
        if x.block == block and x.name in formats and not formats[x.name].dense
    }


def _advance_with(
    stream: BlockStream, block: Any, layers: Mapping[str, BlockLayer], found: Mapping[str, QuantizedWeight]
) -> None:
    """Let the stream pass the block as it will be, and put back the dense weights."""
    before = {name: block.get_parameter(layer.parameter).data for name, layer in layers.items()}
    try:
        with torch.inference_mode(mode=False):
            for name, layer in layers.items():
                dense = block.get_parameter(layer.parameter)
                dense.data = layer.shaped(found[name].dequantize(), block).contiguous()
        stream.advance()
    finally:
        for name, layer in layers.items():
            block.get_parameter(layer.parameter).data = before[name]

"""Where an engine and a candidate part: bisection over exports whose first blocks alone are compressed.

What lies outside the blocks (embedding, head, cache) is suspected where every block is right and the whole is not.

Works for every engine that exports: nothing has to be looked at inside it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.engines.engine import Engine, ExportCard
from paretune.engines.verification import compare_export
from paretune.spaces.configuration import CompressionConfig

if TYPE_CHECKING:
    import torch

    from paretune.compressors.assembly import Assembler


OUTSIDE = "what lies outside the blocks"


def first_difference(
    engine: Engine,
    assembler: Assembler,
    config: CompressionConfig,
    source: Path,
    ids: torch.Tensor,
    tolerance: float,
    writer: Engine | None = None,
) -> str | None:
    """In words, what the engine computes otherwise: the first such kept block, or what lies outside the blocks.

    Takes as many exports as the blocks have binary digits, and three. ``None`` if a fresh export agrees.

    Args:
        engine: that predicts.
        assembler: of the searched model.
        config: of the candidate that did not agree.
        source: folder of the dense model.
        ids: int64 ``(windows, tokens)``.
        tolerance: in nats a token.
        writer: that exports; ``engine`` if left out. Some load what another has written, in the layout of that one.

    Raises:
        EngineError: an export cannot be written or loaded.
    """
    kept = config.pruned.blocks or tuple(range(assembler.spec.blocks))

    def agrees(part: CompressionConfig) -> bool:
        with tempfile.TemporaryDirectory(prefix="paretune-bisect-") as place:
            card = ExportCard(source, "part")
            folder = (writer or engine).export(assembler, part, Path(place) / "export", card)
            return compare_export(engine, assembler, part, folder, ids).kl <= tolerance

    if agrees(config):
        return None
    if agrees(_first_blocks(assembler, config, kept)):
        return OUTSIDE
    low, high = 0, len(kept)
    while high - low > 1:
        middle = (low + high) // 2
        right = agrees(_first_blocks(assembler, config, kept[:middle]))
        low, high = (middle, high) if right else (low, middle)
    return f"block {kept[high - 1]}"


def _first_blocks(
    assembler: Assembler, config: CompressionConfig, blocks: tuple[int, ...]
) -> CompressionConfig:
    """The candidate with every other block, and what lies outside the blocks, as the model has it."""
    layers = {
        layer: choice
        for layer, choice in config.layers.items()
        if assembler.spec.linear(layer).block in blocks
    }
    return config.replaced(layers=layers)

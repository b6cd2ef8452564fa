"""The folder of a candidate that is exported as a graph: graph, weights, tokenizer, a card, the manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.engines.engine import ExportCard
from paretune.engines.export_folder import ExportKind, write_export
from paretune.engines.graphs.onnx_graph.file import write_onnx
from paretune.engines.graphs.onnx_graph.skeleton import graph_model
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import kept_extent

if TYPE_CHECKING:
    from paretune.compressors.weight_provider import WeightProvider


def write_graph_folder(
    spec: ModelSpec,
    bank: WeightProvider,
    config: CompressionConfig,
    folder: Path,
    card: ExportCard,
    kind: ExportKind,
    finish: Callable[[Path], None] | None = None,
) -> Path:
    """Write the candidate into ``folder``, whole or not at all, and return it.

    Args:
        spec: of the dense model as the graph stores it.
        bank: with the weights; no model is run.
        config: of the candidate.
        folder: absent or empty.
        card: what the export says about itself.
        kind: of the export.
        finish: turns the ONNX file of a folder into what the engine loads; ``None``: it loads that file.

    Raises:
        EngineError: the folder is not empty, the disk is full, or the model cannot be traced.
    """

    def write(partial: Path) -> int:
        written = write_onnx(graph_model(spec, bank, config, card.source), cache_shape(spec, config), partial)
        if finish is not None:
            finish(partial)
        return written

    return write_export(kind, spec, config, folder, card, write)


def cache_shape(spec: ModelSpec, config: CompressionConfig) -> list[tuple[int, int]]:
    """Heads and width of the pruned model's cache, a kept layer each."""
    return [
        (kept_extent(spec, "kv_heads", layer.kv_heads, config.pruned), layer.head_dim)
        for block, layer in spec.attention
        if config.keeps_block(block)
    ]

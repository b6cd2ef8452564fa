"""The folder of a candidate that is exported as a graph: graph, weights, tokenizer, a card, the manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.compressors.companions import copy_companions
from paretune.engines.engine import ExportCard
from paretune.engines.graphs.onnx_graph.file import write_onnx
from paretune.engines.graphs.onnx_graph.skeleton import graph_model
from paretune.engines.manifest import write_manifest
from paretune.engines.model_card import base_licence, model_card
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.files import write_whole, written_whole
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import kept_extent, weight_bytes

if TYPE_CHECKING:
    from paretune.compressors.weight_provider import WeightProvider


@dataclass(frozen=True)
class GraphForm:
    """What a program wants its graph to be.

    Attributes:
        engine: registered name.
        file: that it loads.
        tags: of the folder; the first two are its formats.
        use: lines of the card that show how it is run.
        packages: whose versions are recorded.
        finish: turns the ONNX file of a folder into ``file``, or nothing.
    """

    engine: str
    file: str
    tags: tuple[str, ...]
    use: tuple[str, ...]
    packages: tuple[str, ...]
    finish: Callable[[Path], None] | None = None


def write_graph_folder(
    spec: ModelSpec,
    bank: WeightProvider,
    config: CompressionConfig,
    folder: Path,
    card: ExportCard,
    form: GraphForm,
) -> Path:
    """Write the candidate into ``folder``, whole or not at all, and return it.

    Args:
        spec: of the dense model as the graph stores it.
        bank: with the weights; no model is run.
        config: of the candidate.
        folder: absent or empty.
        card: what the export says about itself.
        form: of the program that loads it.

    Raises:
        EngineError: the folder is not empty, the disk is full, or the model cannot be traced.
    """
    with written_whole(folder) as partial:
        model = graph_model(spec, bank, config, card.source)
        written, announced = write_onnx(model, cache_shape(spec, config), partial), weight_bytes(spec, config)
        if written != announced:
            raise EngineError(
                f"export of {card.name}",
                f"{written} bytes of constants were written and {announced} announced",
                "Report this: a format's container and its size disagree",
            )
        if form.finish is not None:
            form.finish(partial)
        copy_companions(card.source, partial)
        text = model_card(spec, config, card, base_licence(card.source), (), tags=form.tags, use=form.use)
        write_whole(partial / "README.md", text)
        write_manifest(partial, spec, config, card, engine=form.engine, packages=form.packages)
    return folder


def cache_shape(spec: ModelSpec, config: CompressionConfig) -> list[tuple[int, int]]:
    """Heads and width of the pruned model's cache, a kept layer each."""
    return [
        (kept_extent(spec, "kv_heads", layer.kv_heads, config.pruned), layer.head_dim)
        for block, layer in spec.attention
        if config.keeps_block(block)
    ]

"""Traces a candidate into an ONNX file whose weights lie beside it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from paretune.engines.graphs.onnx_graph.names import FILE, input_names, output_names
from paretune.engines.graphs.onnx_graph.skeleton import GraphModel
from paretune.spaces.errors import EngineError

_OPSET = 21
"""The first that has casts from bfloat16 and 4-bit integers in every operator that is used."""


def write_onnx(model: GraphModel, cache: list[tuple[int, int]], folder: Path) -> int:
    """Write the graph into a folder, its weights into a file of their own.

    Args:
        model: the candidate.
        cache: heads and width of the cache, a layer each.
        folder: to write into.

    Returns:
        Bytes of weights, scales and zero points in it.

    Raises:
        EngineError: the model cannot be traced.
    """
    try:
        with _quiet():
            program = torch.onnx.export(
                model.eval(),
                _example(cache),
                dynamo=True,
                dynamic_shapes=_dynamic_shapes(len(cache)),
                input_names=input_names(len(cache)),
                output_names=output_names(len(cache)),
                opset_version=_OPSET,
                optimize=False,  # constants would be folded: weights made float32 in the file
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        cause = error.__cause__ or error
        first = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise EngineError(
            "the model", f"cannot be traced into a graph ({first[:300]})", "Choose another engine"
        ) from error
    if program is None:
        raise TypeError("the exporter returned no program")
    _forget_where(program.model)
    program.save(folder / FILE, external_data=True)
    return _stored(program, model)


def _forget_where(model: Any) -> None:
    """Drop the source lines of every node: most of the file, and paths of the machine that it was made on."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes() if hasattr(graph, "all_nodes") else graph:
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()


def _stored(program: Any, model: GraphModel) -> int:
    """Bytes of the constants that are ours; those that transformers computes (rotations) are none of the model's."""
    ours = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    ours -= {f"skeleton.{name}" for name, _ in model.skeleton.named_buffers() if ".held." not in f".{name}"}
    return sum(
        int(x.const_value.nbytes) for name, x in program.model.graph.initializers.items() if name in ours
    )


def _example(cache: list[tuple[int, int]]) -> tuple[Any, ...]:
    """Two sequences of five tokens after three: no extent is one, or like another, by accident."""
    batch, tokens, before = 2, 5, 3
    ids = torch.ones(batch, tokens, dtype=torch.int64)
    positions = torch.arange(before, before + tokens)[None].repeat(batch, 1)
    past = [
        (torch.zeros(batch, heads, before, width), torch.zeros(batch, heads, before, width))
        for heads, width in cache
    ]
    return ids, torch.ones(batch, before + tokens, dtype=torch.int64), positions, past


def _dynamic_shapes(layers: int) -> dict[str, Any]:
    free = torch.export.Dim.DYNAMIC
    cache = ({0: free, 2: free}, {0: free, 2: free})
    names = ("input_ids", "attention_mask", "position_ids")
    return {**{name: {0: free, 1: free} for name in names}, "past": [cache] * layers}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not there and on its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)

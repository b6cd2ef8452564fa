"""What the file of a graph, its inputs and its outputs are called; those of the cache as other exporters call them."""

from __future__ import annotations

FILE = "model.onnx"
PAST = "past_key_values"
PRESENT = "present"


def input_names(layers: int) -> list[str]:
    """In the order of the graph's inputs."""
    return ["input_ids", "attention_mask", "position_ids", *_cache_names(PAST, layers)]


def output_names(layers: int) -> list[str]:
    """In the order of the graph's outputs."""
    return ["logits", *_cache_names(PRESENT, layers)]


def _cache_names(prefix: str, layers: int) -> list[str]:
    return [f"{prefix}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]

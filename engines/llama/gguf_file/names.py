"""What GGUF calls layers: the table of the ``gguf`` package, and the experts that it knows under other names."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

from paretune.spaces.configuration import PrunedShape
from paretune.spaces.errors import EngineError
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_name

FILE = "model.gguf"
"""Of an export."""

FAMILIES = (
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma2", "gemma3", "phi3", "olmo2",
    "granite", "smollm3", "glm4",
)  # fmt: skip
"""Families whose exports were run in llama.cpp and held against their candidates."""

_EXPERT_PARTS = {"expert_gate_up": ("gate", "up"), "expert_up": ("up",), "expert_down": ("down",)}
_PREFIXES = (("model.language_model.", "model."), ("model.decoder.", "model."), ("backbone.", "model."))
"""Of modules in ``transformers``, where the converter's table has them under another path."""


def gguf_names(
    spec: ModelSpec, pruned: PrunedShape, linear: Linear, architecture: str, there: Collection[str]
) -> tuple[str, ...]:
    """Names of the tensors that a layer is stored as, in the order of its rows: two for gate and up of experts.

    Args:
        spec: of the dense model.
        pruned: of the written one.
        linear: the layer.
        architecture: llama.cpp's name of the family.
        there: names of the tensors of the converted model.

    Raises:
        EngineError: there is no such tensor.
    """
    path = kept_name(spec, pruned, linear.parameter)
    if linear.role in _EXPERT_PARTS:
        block = path.removeprefix(f"{spec.block_path}.").partition(".")[0]
        parts = [f"blk.{block}.ffn_{part}_exps.weight" for part in _EXPERT_PARTS[linear.role]]
        if all(name in there for name in parts):
            return tuple(parts)
    blocks = spec.blocks if pruned.blocks is None else len(pruned.blocks)
    table = _table(architecture, blocks)
    for old, new in (("", ""), *_PREFIXES):
        name = new + path.removeprefix(old) if path.startswith(old) else path
        found: str | None = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if found in there:
            return (str(found),)
    raise EngineError(
        f"layer {linear.name}",
        f"has no tensor of its own in a GGUF file of {spec.family}",
        "Leave it as it is (a rule with bits=16), or use another engine",
    )


@lru_cache(maxsize=8)
def _table(architecture: str, blocks: int) -> Any:
    import gguf

    known = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(known[architecture], blocks)

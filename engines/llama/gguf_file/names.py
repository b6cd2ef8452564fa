"""What GGUF calls tensors: the table of the ``gguf`` package, and the experts that it knows under other names."""

from __future__ import annotations

from typing import Any

from paretune.spaces.errors import EngineError
from paretune.spaces.model import Linear, ModelSpec

FILE = "model.gguf"
"""Of an export."""

ARCHITECTURES = {
    "llama": "LLAMA",
    "mistral": "LLAMA",
    "mixtral": "LLAMA",
    "qwen2": "QWEN2",
    "qwen3": "QWEN3",
    "qwen3_moe": "QWEN3MOE",
}
"""Families whose graph llama.cpp computes and that were tried, by ours: name in ``gguf.MODEL_ARCH``."""

_EXPERT_PARTS = {"expert_gate_up": ("gate", "up"), "expert_down": ("down",)}


def architecture(spec: ModelSpec) -> Any:
    """The family in ``gguf.MODEL_ARCH``.

    Raises:
        EngineError: the family is none of :data:`ARCHITECTURES`.
    """
    import gguf

    if spec.family not in ARCHITECTURES:
        raise EngineError(
            f"model of family {spec.family}",
            f"is not written as GGUF; these are: {', '.join(ARCHITECTURES)}",
            "Use another engine for it",
        )
    return gguf.MODEL_ARCH[ARCHITECTURES[spec.family]]


class TensorNames:
    """Names of the tensors of one written model.

    Args:
        spec: of the dense model.
        blocks: of the written one.
    """

    def __init__(self, spec: ModelSpec, blocks: int) -> None:
        import gguf

        self._map = gguf.get_tensor_name_map(architecture(spec), blocks)

    def name(self, parameter: str) -> str:
        """The name of a parameter of the written model.

        Raises:
            EngineError: the family has no such tensor in GGUF.
        """
        found: str | None = self._map.get_name(parameter, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise EngineError(
                f"tensor {parameter}",
                "has no name in GGUF for its family",
                "Use another engine for this model",
            )
        return found

    @staticmethod
    def experts(linear: Linear, block: int) -> tuple[str, ...]:
        """Names of the stacked matrices that a layer of experts is stored as, in the order of its rows."""
        return tuple(f"blk.{block}.ffn_{part}_exps.weight" for part in _EXPERT_PARTS[linear.role])

"""What the linears of an expert are called on disk, where ``transformers`` holds them in 3-D parameters.

Source: ``conversion_mapping.py`` of transformers 5.17. A family that is not listed uses Qwen's names.
"""

from __future__ import annotations

from paretune.spaces.model import Linear, ModelSpec

_USUAL = {
    "expert_gate_up": ("gate_proj", "up_proj"),
    "expert_up": ("up_proj",),
    "expert_down": ("down_proj",),
}
_MIXTRAL = {"expert_gate_up": ("w1", "w3"), "expert_down": ("w2",)}
_PIECES = {"mixtral": _MIXTRAL, "minimax_m2": _MIXTRAL}
UNFOLDED = ("llama4",)
"""Families whose experts ``transformers`` replaces by linears of their own where a checkpoint is quantized, before it
reads any weight (``MODULES_TO_PATCH_FOR_QUANTIZATION`` of ``quantizers/base.py``)."""
_PLAIN = dict.fromkeys(_PIECES, (".mlp.", ".block_sparse_moe."))


def expert_modules(spec: ModelSpec, linear: Linear, expert: int) -> tuple[str, ...]:
    """Paths of the linears that one expert's matrix of a layer is stored as, in the order of its rows."""
    pieces = _PIECES.get(spec.family, _USUAL)[linear.role]
    path = linear.name.rpartition(".")[0]
    return tuple(f"{path}.{expert}.{piece}" for piece in pieces)


def expert_pattern(spec: ModelSpec, linear: Linear, path: str, *, usual: bool = False) -> str:
    """A regular expression for those of all experts of a block whose parameters lie below ``path``.

    Args:
        spec: of the model.
        linear: the layer.
        path: of the experts.
        usual: whether Qwen's names fit too, which vLLM asks for whatever the family (``get_moe_method`` in
            ``compressed_tensors_moe.py``).
    """
    pieces = _PIECES.get(spec.family, _USUAL)[linear.role]
    if usual:
        pieces = tuple(dict.fromkeys((*pieces, *_USUAL[linear.role])))
    return f"re:^{path.replace('.', chr(92) + '.')}\\.\\d+\\.({'|'.join(pieces)})$"


def plain_name(spec: ModelSpec, name: str) -> str:
    """A tensor's name in an unquantized checkpoint, as the family publishes them."""
    before, after = _PLAIN.get(spec.family, ("", ""))
    return name.replace(before, after) if before else name

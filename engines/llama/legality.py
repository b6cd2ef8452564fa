"""What llama.cpp loads from a GGUF file: a block type of ggml for every tensor alone.

Sources: ``ggml-cpu.c`` and ``llama-model.cpp`` of llama.cpp; every type that is legal here was loaded and compared.
"""

from __future__ import annotations

from paretune.engines.group_ruling import LayerRules
from paretune.engines.llama.gguf_file.names import FAMILIES
from paretune.spaces.cache_format import CACHE_GROUP, KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.errors import FormatError
from paretune.spaces.legality import LEGAL, Ruling, illegal
from paretune.spaces.model import Linear, ModelSpec

_GGML = "ggml 0.20"
_LLAMA = "llama.cpp"
_CACHE = "llama.cpp: --cache-type-k"


class LlamaLegality(LayerRules):
    """Nothing is fused: every tensor has a type of its own. Gate and up of experts are one parameter here."""

    def layer(self, spec: ModelSpec, linear: Linear, choice: LayerChoice, columns: int) -> Ruling:
        """See :class:`paretune.engines.group_ruling.LayerRules`."""
        del linear
        if choice.activation is not None:
            return illegal("inputs are rounded by llama.cpp itself, to 8 bits, and not by choice", _LLAMA)
        if choice.weight.dense:
            return LEGAL if choice.weight.num_bits == 16 else _as_the_model_has_them()
        if not (verdict := _blocks(spec, choice)):
            return verdict
        try:
            choice.weight.blocks(columns)
        except FormatError as error:
            return illegal(f"{error.value} {error.rule}", _GGML)
        return LEGAL

    def kv(self, spec: ModelSpec, kv: KVFormat) -> Ruling:
        """16 bits, or its own 8 bits in every block, a launch option."""
        if kv.layers or (kv.num_bits != 16 and kv.number_type != "ggml"):
            return illegal(f"cache {kv.name}: llama.cpp has 16 bits and its own 8, 8-ggml", _CACHE)
        if kv.num_bits != 16 and spec.head_dim % CACHE_GROUP:
            return illegal(
                f"cache {kv.name}: blocks of {CACHE_GROUP} do not divide heads of {spec.head_dim}", _CACHE
            )
        return LEGAL


def _blocks(spec: ModelSpec, choice: LayerChoice) -> Ruling:
    name = choice.weight.name
    if not choice.weight.ggml:
        return illegal(f"{name} is no block type of ggml", _GGML)
    if spec.family not in FAMILIES:
        return illegal(f"models of family {spec.family} are not written as GGUF", _LLAMA)
    if choice.sparsity is not None:
        return illegal(f"blocks of {name} do not keep zeros, and would not be smaller for them", _GGML)
    return LEGAL


def _as_the_model_has_them() -> Ruling:
    return illegal("unquantized weights stay as the model has them, which is called 16", _GGML)

"""What llama.cpp loads from a GGUF file: a block type of ggml for every tensor alone.

Sources: ``ggml-cpu.c`` and ``llama-model.cpp`` of llama.cpp; every type that is legal here was loaded and compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from paretune.engines.llama.gguf_file.names import FAMILIES
from paretune.spaces.cache_format import CACHE_GROUP, KVFormat
from paretune.spaces.checking import pruned_ruling
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import PrunedShape
from paretune.spaces.errors import FormatError
from paretune.spaces.groups import single_groups
from paretune.spaces.legality import LEGAL, FusedGroup, Ruling, illegal
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import kept_shape

_GGML = "ggml 0.20"
_LLAMA = "llama.cpp"
_CACHE = "llama.cpp: --cache-type-k"


@dataclass(frozen=True)
class LlamaLegality:
    """See :class:`paretune.spaces.legality.Legality`.

    Attributes:
        engine: registered name.
        device: name of the device.
    """

    engine: str
    device: str

    def groups(self, spec: ModelSpec) -> tuple[FusedGroup, ...]:
        """Nothing is fused: every tensor has a type of its own. Gate and up of experts are one parameter here."""
        return single_groups(spec)

    def choice(self, spec: ModelSpec, group: FusedGroup, choice: LayerChoice, pruned: PrunedShape) -> Ruling:
        """See :class:`paretune.spaces.legality.Legality`."""
        if choice.activation is not None:
            return illegal("inputs are rounded by llama.cpp itself, to 8 bits, and not by choice", _LLAMA)
        if choice.weight.dense:
            return LEGAL if choice.weight.num_bits == 16 else _as_the_model_has_them()
        verdict = _blocks(spec, choice)
        if not verdict:
            return verdict
        try:
            for layer in group.layers:
                choice.weight.blocks(kept_shape(spec, spec.linear(layer), pruned)[1])
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

    def pruned(self, spec: ModelSpec, pruned: PrunedShape) -> Ruling:
        """A pruned model is a smaller configuration of the same architecture, if that can express it."""
        return pruned_ruling(spec, pruned)


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

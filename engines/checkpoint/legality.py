"""What a compressed-tensors checkpoint that ``transformers`` loads can hold, and what our own runtime runs.

Sources of the rules: compressed-tensors 0.19 and transformers 5.17, read and tried. A space has what is legal layer by
layer (:class:`CheckpointLegality`); what depends on several layers at once, or what our own runtime runs and the
container has no place for, is ruled for a whole candidate (:func:`checkpoint_ruling`).
"""

from __future__ import annotations

from paretune.compressors.expert_names import UNFOLDED
from paretune.engines.checkpoint.schemes import container
from paretune.engines.group_ruling import LayerRules, ruling_by_layer
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import FormatError
from paretune.spaces.formats import WeightFormat
from paretune.spaces.groups import fused_groups
from paretune.spaces.legality import LEGAL, FusedGroup, Ruling, illegal
from paretune.spaces.model import Linear, ModelSpec

CONTAINER = "compressed-tensors 0.19"
LOADER = "transformers 5.17"
WIDTHS = (2, 3, 4, 5, 6, 8)


class CheckpointLegality(LayerRules):
    """Legality of the engines that export compressed-tensors for ``transformers``."""

    def groups(self, spec: ModelSpec) -> tuple[FusedGroup, ...]:
        """q/k/v, gate/up and the experts of a block share a choice; a tied head moves with the embedding."""
        return fused_groups(spec)

    def layer(self, spec: ModelSpec, linear: Linear, choice: LayerChoice, columns: int) -> Ruling:
        """See :class:`paretune.engines.group_ruling.LayerRules`."""
        return (
            _container(choice)
            and _role(linear, choice, alone=spec.family in UNFOLDED)
            and row_ruling(columns, choice)
            and self._inputs(linear, choice, columns)
        )

    def kv(self, spec: ModelSpec, kv: KVFormat) -> Ruling:
        """16 and 8 bits: our own runtime stores the cache; see :mod:`paretune.engines.runtime.static_cache`."""
        del spec, kv
        return LEGAL

    def _inputs(self, linear: Linear, choice: LayerChoice, columns: int) -> Ruling:
        if choice.activation is None:
            return LEGAL
        if linear.role == "embedding":
            return illegal("the input of an embedding is token numbers, which cannot be rounded", self.engine)
        if linear.role.startswith("expert"):
            return illegal(
                "experts are decompressed into 3-D parameters on loading, and their inputs stay unrounded there",
                f"{LOADER}: integrations/compressed_tensors.py, DecompressExperts",
            )
        if choice.weight.dense:
            return illegal("inputs are rounded beside quantized weights only", CONTAINER)
        try:
            choice.activation.scales(columns)
        except FormatError as error:
            return illegal(f"{error.value} {error.rule}", CONTAINER)
        return LEGAL


def _container(choice: LayerChoice) -> Ruling:
    weight = choice.weight
    if not weight.dense:
        return _integers(weight) if weight.number_type == "int" else LEGAL
    if weight.num_bits != 16:
        return illegal("unquantized weights stay as the model has them, which is called 16", CONTAINER)
    return LEGAL


def _integers(weight: WeightFormat) -> Ruling:
    if weight.num_bits not in WIDTHS:
        return illegal(f"{weight.num_bits} bits are not among {', '.join(map(str, WIDTHS))}", CONTAINER)
    if weight.zero_point == "float":
        return illegal("pack-quantized stores integer zero points only", CONTAINER)
    if weight.actorder != "none":
        return illegal("no registered method reorders columns", CONTAINER)
    return LEGAL


def _role(linear: Linear, choice: LayerChoice, alone: bool) -> Ruling:
    """What the loader makes of a layer; ``alone``: experts are linears there, not one parameter of all."""
    weight = choice.weight
    if weight.dense:
        return LEGAL
    if weight.number_type != "int" and (linear.role == "embedding" or linear.role.startswith("expert")):
        return illegal(f"{weight.name} is for linears of their own, not embeddings or experts", LOADER)
    if linear.role == "embedding" and weight.num_bits != 8:
        # Packed codes leave nn.Embedding without its weight, which initialization reads; 8 bits are stored unpacked.
        return illegal("transformers loads embeddings of 8 and 16 bits alone", LOADER)
    if linear.stacked and linear.transposed and not alone:
        return illegal("experts stored as (in, out) have no packed form that loads", LOADER)
    if not alone and linear.role.startswith("expert") and not weight.symmetric:
        return illegal("experts are decompressed without zero points, so they must be symmetric", LOADER)
    return LEGAL


def row_ruling(columns: int, choice: LayerChoice) -> Ruling:
    """Whether groups, and patterns of zeros, divide a row of ``columns`` weights."""
    try:
        if not choice.weight.dense:
            choice.weight.groups(columns)
    except FormatError as error:
        return illegal(f"{error.value} {error.rule}", CONTAINER)
    sparsity = choice.sparsity
    if sparsity is not None and sparsity.pattern != "unstructured":
        span = int(sparsity.pattern.rpartition(":")[2])
        if columns % span:
            return illegal(f"{sparsity.pattern} zeros need rows in multiples of {span}, not {columns}")
    return LEGAL


def checkpoint_ruling(spec: ModelSpec, config: CompressionConfig) -> Ruling:
    """Refusals name the first layer that is in the way."""
    for linear in spec.linears:
        if linear.transposed and not linear.stacked and not config.choice(linear.name).weight.dense:
            return illegal(
                f"{linear.name} is a Conv1D, which compressed-tensors does not quantize (it knows nn.Linear"
                " and nn.Embedding); the candidate can be searched and run here, but not exported",
                CONTAINER,
            )
    for layer, choice in config.layers.items():
        if not choice.weight.dense and container(choice.weight) is None:
            way = "; NF4 has the form bitsandbytes" if choice.weight.codebook == "normal" else ""
            return illegal(
                f"{layer} has {choice.weight.name}, and compressed-tensors has no codebooks; the candidate can be"
                f" searched and run here, but not exported{way}",
                CONTAINER,
            )
        if choice.weight.scale == "fp8" and choice.activation is not None:
            return illegal(
                f"{layer} has NVFP4 weights and 4-bit inputs: weights are expanded in bf16 on loading, which moves"
                " inputs of the next linears to other codes; it can be searched and run here, but not exported",
                LOADER,
            )
    schemes = {
        config.choice(linear.name).weight
        for linear in spec.linears
        if linear.role.startswith("expert") and not config.choice(linear.name).weight.dense
    }
    if len(schemes) > 1 and spec.family not in UNFOLDED:
        names = ", ".join(sorted(scheme.name for scheme in schemes))
        return illegal(
            f"experts are quantized as {names}, but all experts of a checkpoint are decompressed by one"
            " scheme; give every quantized block of experts the same format, or leave some at 16 bits",
            LOADER,
        )
    # Loaded linear by linear: nothing is fused, though a space lets q, k and v share a choice.
    return ruling_by_layer(CheckpointLegality("transformers", "cpu"), spec, config)

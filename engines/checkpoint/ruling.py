"""Whether a whole candidate fits into a compressed-tensors checkpoint that ``transformers`` loads.

What depends on one layer alone is ruled by :mod:`paretune.engines.checkpoint.legality`, which also gives a space its
choices; besides, there is what depends on several layers, and what our own runtime runs but the container has no
place for.
"""

from __future__ import annotations

from paretune.engines.checkpoint.legality import CheckpointLegality
from paretune.engines.checkpoint.weight_schemes import container
from paretune.engines.group_ruling import ruling_by_layer
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.legality import Ruling, illegal
from paretune.spaces.model import ModelSpec

_LOADER = "transformers 5.17"


def checkpoint_ruling(spec: ModelSpec, config: CompressionConfig) -> Ruling:
    """Refusals name the first layer that is in the way."""
    for linear in spec.linears:
        if linear.transposed and not config.choice(linear.name).weight.dense:
            return illegal(
                f"{linear.name} is a Conv1D, which compressed-tensors does not quantize (it knows nn.Linear"
                " and nn.Embedding); the candidate can be searched and run here, but not exported",
                "compressed-tensors 0.19",
            )
    for layer, choice in config.layers.items():
        if not choice.weight.dense and container(choice.weight) is None:
            way = "; NF4 has the form bitsandbytes" if choice.weight.codebook == "normal" else ""
            return illegal(
                f"{layer} has {choice.weight.name}, and compressed-tensors has no codebooks; the candidate can be"
                f" searched and run here, but not exported{way}",
                "compressed-tensors 0.19",
            )
        if choice.weight.scale == "fp8" and choice.activation is not None:
            return illegal(
                f"{layer} has NVFP4 weights and 4-bit inputs: weights are expanded in bf16 on loading, which moves"
                " inputs of the next linears to other codes; it can be searched and run here, but not exported",
                _LOADER,
            )
    schemes = {
        config.choice(linear.name).weight
        for linear in spec.linears
        if linear.role.startswith("expert") and not config.choice(linear.name).weight.dense
    }
    if len(schemes) > 1:
        names = ", ".join(sorted(scheme.name for scheme in schemes))
        return illegal(
            f"experts are quantized as {names}, but all experts of a checkpoint are decompressed by one"
            " scheme; give every quantized block of experts the same format, or leave some at 16 bits",
            _LOADER,
        )
    # Loaded linear by linear: nothing is fused, though a space lets q, k and v share a choice.
    return ruling_by_layer(CheckpointLegality("transformers", "cpu"), spec, config)

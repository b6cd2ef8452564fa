"""What a space has to know about methods of quantization: what must be chosen together, and in which format.

The methods themselves are registered in :mod:`paretune.compressors.quantizers`; a test holds this table against them.
"""

from __future__ import annotations

from typing import Literal

from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError, UnknownNameError
from paretune.spaces.legality import LEGAL, Ruling, illegal
from paretune.spaces.model import ModelSpec
from paretune.spaces.schema import Frozen

Closure = Literal["layer", "block", "model"]
"""What a method touches when it is applied to one layer."""


class Method(Frozen):
    """One method of quantization.

    Attributes:
        closure: layers that can only be chosen together: each alone, those of a block, or all.
        zero_point: whether the integers it makes need one.
    """

    closure: Closure = "layer"
    zero_point: bool = False


_OF_A_LAYER = Method()

METHODS: dict[str, Method] = {
    "rtn": _OF_A_LAYER,
    "weighted": _OF_A_LAYER,
    "hqq": Method(zero_point=True),
    "gptq": _OF_A_LAYER,
    "minmax": _OF_A_LAYER,
    "percentile": _OF_A_LAYER,
    "entropy": _OF_A_LAYER,
    "kmeans": _OF_A_LAYER,
    "learned": _OF_A_LAYER,
    "awq": Method(closure="block"),
    "ggml": _OF_A_LAYER,
    "ggml-importance": _OF_A_LAYER,
}
BLOCK_METHODS = frozenset(name for name, method in METHODS.items() if method.closure == "block")
"""Methods whose entries are swapped as whole blocks."""


def find_method(name: str) -> Method:
    """What is known about the method called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    return METHODS[name]


def needs_zero_point(name: str) -> bool:
    """Whether the integers of a method need a zero point; a method that is not in the table needs none."""
    return name in METHODS and METHODS[name].zero_point


def scaled_blocks(spec: ModelSpec, config: CompressionConfig) -> dict[int, LayerChoice]:
    """Blocks that a method scales as a whole, and the choice that all their layers share."""
    found = {}
    for layer, choice in config.layers.items():
        if choice.method in BLOCK_METHODS:
            block = spec.linear(layer).block
            if block is not None:
                found[block] = choice
    return found


def check_closures(spec: ModelSpec, config: CompressionConfig) -> None:
    """Refuse half a block of a method that scales whole blocks.

    Raises:
        ConfigurationError: layers of a block that disagree, a cut of heads or channels, or calibrated inputs.
    """
    chosen = scaled_blocks(spec, config)
    for linear in spec.block_linears if chosen else ():
        choice = chosen.get(linear.block if linear.block is not None else -1)
        if choice is not None and config.choice(linear.name) != choice:
            raise ConfigurationError(
                f"{linear.name} at {config.choice(linear.name).name}",
                f"{choice.method} scales block {linear.block} as a whole, and another layer of it has {choice.name}",
                "Choose the same for all layers of the block",
            )
    for choice in dict.fromkeys(chosen.values()):
        verdict = closure_ruling(choice, config.pruned)
        if not verdict:
            raise ConfigurationError(choice.name, verdict.reason, "Use rtn or gptq there")


def closure_ruling(choice: LayerChoice, pruned: PrunedShape) -> Ruling:
    """Whether a method that scales whole blocks goes with the rest of the choice, and with the pruned model."""
    if choice.method not in BLOCK_METHODS:
        return LEGAL
    if pruned.kv_heads is not None or pruned.ffn_channels is not None:
        return illegal(
            f"{choice.method} scales whole blocks, and the pruned model lacks heads or channels of them"
        )
    if choice.activation is not None and choice.activation.calibrated:
        return illegal(
            f"{choice.method} changes the inputs of linears, and their scales are of the unchanged"
        )
    return LEGAL

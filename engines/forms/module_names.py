"""Which modules of a pruned model a loader may replace by quantized ones, and the names of those left alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import kept_linears


def quantized_modules(spec: ModelSpec, config: CompressionConfig) -> tuple[str, ...]:
    """Paths of the linears that have codes, in the pruned model, in the order of the model."""
    from paretune.engines.runtime.candidate_model import kept_name

    return tuple(
        kept_name(spec, config.pruned, linear.name)
        for linear in kept_linears(spec, config)
        if not config.choice(linear.name).weight.dense
    )


def dense_modules(spec: ModelSpec, config: CompressionConfig) -> tuple[str, ...]:
    """Paths of everything else that may be a linear: layers that stay dense, a tied head, routers and projections."""
    from paretune.engines.runtime.candidate_model import kept_name

    layers = [
        linear.name
        for linear in spec.linears
        if config.keeps_block(linear.block)
        and linear.role != "embedding"
        and not linear.role.startswith("expert")
        and config.choice(linear.name).weight.dense
    ]
    fixed = [
        tensor.name.removesuffix(".weight")
        for tensor in spec.fixed
        if len(tensor.shape) > 1 and tensor.name.endswith(".weight") and config.keeps_block(tensor.block)
    ]
    return tuple(kept_name(spec, config.pruned, name) for name in (*layers, *fixed))


def skip_patterns(left: Iterable[str], replaced: Iterable[str]) -> list[str]:
    """Names that ``transformers`` leaves alone, in words that reach no module that is to be replaced.

    It reads an entry as a regular expression that a name begins with, and as what a name ends with
    (``should_convert_module``, transformers 5.17): ``mlp.gate`` would leave ``mlp.gate_proj`` alone too. An entry that
    would is written as an expression of the whole name; the others stay plain, which other loaders understand.
    """
    names = tuple(replaced)
    return [
        f"{re.escape(name)}$" if any(x.startswith(name) or x.endswith(name) for x in names) else name
        for name in left
    ]

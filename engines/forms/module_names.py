"""Which modules of a student a loader may replace by quantized ones, and how the others are named to be left alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from spaces.configuration import CompressionConfig
from spaces.model import ModelSpec
from spaces.size import kept_linears


def quantized_modules(spec: ModelSpec, config: CompressionConfig) -> tuple[str, ...]:
    """Paths of the linears that have codes, in the student, in the order of the model."""
    from engines.runtime.candidate_model import kept_name

    return tuple(
        kept_name(spec, config.student, linear.name)
        for linear in kept_linears(spec, config)
        if not config.choice(linear.name).weight.dense
    )


def dense_modules(spec: ModelSpec, config: CompressionConfig) -> tuple[str, ...]:
    """Paths of everything else that may be a linear: sites that stay dense, a tied head, routers and projections."""
    from engines.runtime.candidate_model import kept_name

    sites = [
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
    return tuple(kept_name(spec, config.student, name) for name in (*sites, *fixed))


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

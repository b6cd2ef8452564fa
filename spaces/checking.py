"""Whether a configuration fits a model: the check for configurations that did not come out of a space."""

from __future__ import annotations

from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.legality import LEGAL, Ruling, illegal
from paretune.spaces.methods import check_closures
from paretune.spaces.model import ModelSpec
from paretune.spaces.pruned_sizes import LABELS, full_count, size_refusal
from paretune.spaces.size import kept_linears, kept_shape


def check_configuration(spec: ModelSpec, config: CompressionConfig) -> None:
    """Refuse a configuration that the model cannot have, whatever the engine.

    Raises:
        ModelError: a layer that is no linear of the model.
        ConfigurationError: a tied head chosen apart from its embedding, a choice for a block that is cut,
            half a block of a method that scales whole blocks, or a pruned model larger than the model or one that the
            architecture cannot express.
        FormatError: a group size that does not divide the row it is left with.
    """
    check_pruned(spec, config.pruned)
    config.kv.check_blocks(len(spec.cache))
    check_closures(spec, config)
    kept = {linear.name for linear in kept_linears(spec, config)}
    for name, choice in config.layers.items():
        linear = spec.linear(name)
        if spec.tied and linear.role == "head":
            raise ConfigurationError(
                f"layer {name!r}", "is tied to the embedding", f"Choose for {spec.embedding.name}"
            )
        if name not in kept:
            raise ConfigurationError(f"layer {name!r}", "lies in a block that is cut", "Leave it out")
        if not choice.weight.dense:
            choice.weight.groups(kept_shape(spec, linear, config.pruned)[1])


def pruned_ruling(spec: ModelSpec, pruned: PrunedShape) -> Ruling:
    """Whether the model's architecture can express a pruned model: :func:`check_pruned` as a ruling, for engines."""
    try:
        check_pruned(spec, pruned)
    except ConfigurationError as error:
        return illegal(f"{error.value}: {error.rule}", "config.json")
    return LEGAL


def check_pruned(spec: ModelSpec, pruned: PrunedShape) -> None:
    """Refuse a pruned model that the model cannot have.

    Raises:
        ConfigurationError: a block or a count that the model does not have, or a cut that it cannot express.
    """
    for kind, label in LABELS.items():
        value = getattr(pruned, kind)
        if value is None:
            continue
        full, reason = full_count(spec, kind), spec.why_uncuttable(kind)
        if reason is not None:
            raise ConfigurationError(f"pruned model {pruned.name}", reason, f"Keep all {full} {label}")
        outside = value[-1] >= full if isinstance(value, tuple) else value > full
        if outside:
            raise ConfigurationError(
                f"pruned model with {label} {value}", f"the model has {full}", "Keep fewer"
            )
    refusal = size_refusal(spec, pruned)
    if refusal is not None:
        raise ConfigurationError(f"pruned model {pruned.name}", refusal, "Keep other counts")

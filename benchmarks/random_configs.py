"""Random configurations that an engine takes, and such that it must refuse; each from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paretune.engines.engine import Engine
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import DENSE_CONFIG, WHOLE, CompressionConfig, PrunedShape
from paretune.spaces.errors import EngineError
from paretune.spaces.formats import WeightFormat, integer_format
from paretune.spaces.legality import FusedGroup
from paretune.spaces.model import ModelSpec
from paretune.spaces.named_formats import (
    GGML_FORMATS,
    WEIGHT_FORMATS,
    WITH_INPUTS,
    default_method,
    find_choice,
)
from paretune.spaces.pruned_sizes import full_count

_WIDTHS = (2, 3, 4, 5, 6, 8)
_GROUPS = (None, 32, 64, 128)
_DENSE_SHARE = 0.2
"""Of groups that stay as they are, so that formats meet unquantized neighbours."""
_PRUNED_SHARE = 0.25
_DRAWS = 50
"""A configuration that is asked for, at most: most draws are new and taken."""


@dataclass(frozen=True)
class Named:
    """A configuration and what it is called in tables."""

    name: str
    config: CompressionConfig
    formats: tuple[str, ...] = ()


def every_choice() -> list[LayerChoice]:
    """All formats that have names, and integers of every width, group and symmetry; one method each."""
    named = [find_choice(name) for name in (*WEIGHT_FORMATS, *WITH_INPUTS, *GGML_FORMATS)]
    integers = [
        integer_format(bits, group, symmetric)
        for bits in _WIDTHS
        for group in _GROUPS
        for symmetric in (True, False)
    ]
    return [*named, *(LayerChoice(weight=weight, method=default_method(weight)) for weight in integers)]


def legal_choices(engine: Engine, device: str, spec: ModelSpec) -> dict[str, list[LayerChoice]]:
    """By group of the whole model: what may stand there."""
    legality = engine.legality(device)
    return {
        group.name: [choice for choice in every_choice() if legality.choice(spec, group, choice, WHOLE)]
        for group in legality.groups(spec)
    }


def random_legal(engine: Engine, device: str, spec: ModelSpec, count: int = 20, seed: int = 0) -> list[Named]:
    """Different configurations that the engine exports for the device, every legal format in at least one.

    Args:
        engine: that is asked.
        device: by name.
        spec: of the model.
        count: of configurations.
        seed: of the draw.

    Raises:
        EngineError: :data:`_DRAWS` draws a configuration have not found as many.
    """
    numbers, legality = random.Random(seed), engine.legality(device)
    choices = legal_choices(engine, device, spec)
    exported = _exported(engine, spec, legality.groups(spec), choices)
    found: list[Named] = []
    for _ in range(_DRAWS * count):
        if len(found) == count:
            break
        pruned = _pruned(spec, numbers) if numbers.random() < _PRUNED_SHARE else WHOLE
        pruned = pruned if legality.pruned(spec, pruned) else WHOLE
        # Those that no configuration has yet come first: an even share of them each.
        first = exported[len(found) :: count]
        config = _grown(engine, device, spec, pruned, first, choices, numbers)
        if config.layers and config not in [named.config for named in found]:
            formats = sorted({choice.name for choice in config.layers.values()})
            found.append(Named(f"random-{len(found):02d}", config, tuple(formats)))
    if len(found) < count:
        raise _exhausted(engine, spec, len(found), count)
    return found


def _exhausted(engine: Engine, spec: ModelSpec, found: int, count: int) -> EngineError:
    """With the engine's own reason where it takes nothing of the model."""
    whole = engine.export_ruling(spec, DENSE_CONFIG)
    reason = (
        "the others were refused, or the same again" if whole else f"it takes nothing of it: {whole.reason}"
    )
    return EngineError(
        f"{count} configurations of {spec.source} for {engine.name}",
        f"{found} were found in {_DRAWS * count} draws; {reason}",
        "Ask for fewer, or name another model or engine",
    )


def _exported(
    engine: Engine, spec: ModelSpec, groups: Sequence[FusedGroup], choices: dict[str, list[LayerChoice]]
) -> list[LayerChoice]:
    """Choices that an export can hold at some group: a few are for our own runtime alone."""
    found: dict[LayerChoice, None] = {}
    for group in groups:
        for choice in choices[group.name]:
            if choice not in found:
                config = CompressionConfig(layers=dict.fromkeys(group.layers, choice))
                if engine.export_ruling(spec, config):
                    found[choice] = None
    return list(found)


def _grown(
    engine: Engine,
    device: str,
    spec: ModelSpec,
    pruned: PrunedShape,
    first: Sequence[LayerChoice],
    choices: dict[str, list[LayerChoice]],
    numbers: random.Random,
) -> CompressionConfig:
    """A configuration made group by group, each kept if the whole can still be exported."""
    legality = engine.legality(device)
    groups = [group for group in legality.groups(spec) if pruned.keeps_block(group.block)]
    config = CompressionConfig(pruned=pruned)
    places = list(groups)
    numbers.shuffle(places)
    for choice in first:
        for group in places:
            grown = _with(engine, device, spec, config, group, choice)
            if choice in choices[group.name] and grown is not None:
                config = grown
                places.remove(group)
                break
    for group in places:
        grown = _with(engine, device, spec, config, group, _drawn(choices[group.name], numbers))
        config = grown or config
    return config


def _with(
    engine: Engine,
    device: str,
    spec: ModelSpec,
    config: CompressionConfig,
    group: FusedGroup,
    choice: LayerChoice,
) -> CompressionConfig | None:
    if choice == LayerChoice() or not engine.legality(device).choice(spec, group, choice, config.pruned):
        return None
    grown = config.replaced(layers={**config.layers, **dict.fromkeys(group.layers, choice)})
    return grown if engine.export_ruling(spec, grown) else None


def _drawn(choices: Sequence[LayerChoice], numbers: random.Random) -> LayerChoice:
    if not choices or numbers.random() < _DENSE_SHARE:
        return LayerChoice()
    return numbers.choice(choices)


def _pruned(spec: ModelSpec, numbers: random.Random) -> PrunedShape:
    """A model without one of its inner blocks, or with half of its channels."""
    if numbers.random() < 0.5 and spec.blocks > 2:
        left_out = numbers.randrange(1, spec.blocks - 1)
        return PrunedShape(blocks=tuple(block for block in range(spec.blocks) if block != left_out))
    return PrunedShape(ffn_channels=spec.ffn_size // 2)


def random_illegal(
    engine: Engine, device: str, spec: ModelSpec, count: int = 20, seed: int = 0
) -> Iterator[Named]:
    """Configurations that differ from a legal one in one thing that the engine must refuse.

    Things are taken in turn: a format that a group may not have, a fused group whose layers differ, a cache, zeros, a
    pruned model that the architecture cannot express or that is larger than the model; where an engine takes all of a
    kind, the next kind.
    """
    numbers = random.Random(seed)
    legal = random_legal(engine, device, spec, count, seed + 1)
    for index in range(count):
        for kind in range(index, index + len(_SPOILERS)):
            spoiled = _SPOILERS[kind % len(_SPOILERS)](engine, device, spec, legal[index].config, numbers)
            if spoiled is not None:
                yield Named(f"illegal-{index:02d}", spoiled)
                break


def _wrong_format(
    engine: Engine, device: str, spec: ModelSpec, config: CompressionConfig, numbers: random.Random
) -> CompressionConfig | None:
    legality = engine.legality(device)
    groups = [group for group in legality.groups(spec) if config.keeps_block(group.block)]
    for group in numbers.sample(groups, len(groups)):
        wrong = [c for c in _spoilt_choices() if not legality.choice(spec, group, c, config.pruned)]
        if wrong:
            return config.replaced(
                layers={**config.layers, **dict.fromkeys(group.layers, numbers.choice(wrong))}
            )
    return None


def _spoilt_choices() -> list[LayerChoice]:
    """Everything, and what no engine has: groups that divide nothing, float zero points."""
    odd = [integer_format(4, 48), integer_format(7, 32), integer_format(4, 24)]
    floating = WeightFormat(num_bits=4, number_type="int", group_size=32, symmetric=False, zero_point="float")
    extra = [LayerChoice(weight=weight, method="rtn") for weight in odd]
    return [*every_choice(), *extra, LayerChoice(weight=floating, method="hqq")]


def _split_group(
    engine: Engine, device: str, spec: ModelSpec, config: CompressionConfig, numbers: random.Random
) -> CompressionConfig | None:
    if not engine.fuses:
        return None
    fused = [
        g for g in engine.legality(device).groups(spec) if len(g.layers) > 1 and config.keeps_block(g.block)
    ]
    numbers.shuffle(fused)
    legal = legal_choices(engine, device, spec)
    for group in fused:
        others = [choice for choice in legal[group.name] if choice != config.choice(group.layers[0])]
        if others:
            return config.replaced(layers={**config.layers, group.layers[-1]: numbers.choice(others)})
    return None


def _wrong_cache(
    engine: Engine, device: str, spec: ModelSpec, config: CompressionConfig, numbers: random.Random
) -> CompressionConfig | None:
    del numbers
    for kv in (KVFormat(num_bits=8), KVFormat(num_bits=4)):
        if not engine.legality(device).kv(spec, kv):
            return config.replaced(kv=kv)
    return None


def _wrong_zeros(
    engine: Engine, device: str, spec: ModelSpec, config: CompressionConfig, numbers: random.Random
) -> CompressionConfig | None:
    """Zeros in a pattern that does not divide the row, or beside blocks that do not keep them."""
    legality = engine.legality(device)
    groups = [g for g in legality.groups(spec) if g.kind == "linear" and config.keeps_block(g.block)]
    for group in numbers.sample(groups, len(groups)):
        choice = config.choice(group.layers[0])
        for pattern, fraction in (("2:4", 0.5), ("4:8", 0.5), ("unstructured", 0.5)):
            pruned = choice.model_copy(
                update={"sparsity": Sparsity(fraction=fraction, pattern=pattern, criterion="magnitude")}
            )
            if not legality.choice(spec, group, pruned, config.pruned):
                return config.replaced(layers={**config.layers, **dict.fromkeys(group.layers, pruned)})
    return None


def _wrong_pruned(
    engine: Engine, device: str, spec: ModelSpec, config: CompressionConfig, numbers: random.Random
) -> CompressionConfig | None:
    """Half of something, or twice of it."""
    legality = engine.legality(device)
    pruned_sizes = [
        PrunedShape.model_validate({kind: size})
        for kind in ("kv_heads", "ffn_channels", "hidden")
        for size in (max(1, full_count(spec, kind) // 2), 2 * full_count(spec, kind))
    ]
    wrong = [pruned for pruned in pruned_sizes if not legality.pruned(spec, pruned)]
    return config.replaced(pruned=numbers.choice(wrong)) if wrong else None


_SPOILERS = (_wrong_format, _split_group, _wrong_cache, _wrong_zeros, _wrong_pruned)

"""What an engine offers of a model, ruled on before anything is loaded: nothing at all is refused, a part is said."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, WHOLE, CompressionConfig
from paretune.spaces.errors import EngineError, SpaceError
from paretune.spaces.patterns import Restrictions, group_sizes
from paretune.spaces.refusals import beside_language, without_choice
from paretune.spaces.space import SearchSpace

if TYPE_CHECKING:
    from paretune.engines import Engine
    from paretune.spaces.parameters import Parameter


def check_offer(engine: Engine, space: SearchSpace, named: Restrictions, *, export: bool) -> tuple[str, ...]:
    """Refuse a search that has nothing to choose or to write; what it leaves alone, in words.

    Args:
        engine: of the search.
        space: of the engine; the order of blocks does not matter.
        named: what the user named, before the engine filled in what was left open.
        export: whether what is found shall be exported.

    Raises:
        EngineError: the engine writes no such model, or the device does not run it.
        SpaceError: no layer inside the blocks has a choice but what it is, or none has a group size that was named.
    """
    spec = space.spec
    verdict = engine.export_ruling(spec, DENSE_CONFIG)
    if not verdict:
        raise EngineError(
            f"engine {engine.name} for {spec.architecture}",
            f"can write nothing of the model: {verdict.reason}",
            "Choose another engine; `paretune inspect MODEL --engine NAME` shows what one offers",
        )
    if not (runs := space.legality.pruned(spec, WHOLE)):
        raise EngineError(
            f"engine {engine.name} on {space.legality.device} for {spec.architecture}",
            f"does not run the model there: {runs.reason}",
            "Choose another device or engine; `paretune engines` lists engines",
        )
    inside = [space.parameters[i] for i in space.layer_parameters]
    inside = [x for x in inside if x.group is not None and x.group.kind == "linear"]
    asked = [x for x in inside if any(_quantized(choice) for choice in x.choices) or _reasons(space, x)]
    fixed = [x for x in asked if all(isinstance(c, LayerChoice) and c.untouched for c in x.choices)]
    if asked and len(fixed) == len(inside):
        raise SpaceError(
            f"search of {spec.architecture} for {engine.name}",
            f"has nothing to choose inside the blocks: {_commonest(space, fixed)}",
            "Allow other formats, methods or group sizes, or choose another engine",
        )
    _refuse_unused_sizes(space, named)
    notes = [*beside_language(spec), *without_choice(space)]
    refusal = _unwritten(engine, space, inside) if export else ""
    if refusal:
        notes.append(f"no layer that is quantized can be exported, only searched and run here: {refusal}")
    return tuple(notes)


def _refuse_unused_sizes(space: SearchSpace, named: Restrictions) -> None:
    """Refuse group sizes that were named where no choice of the space has any of them."""
    if "group_size" not in named.model_fields_set:
        return
    sizes = group_sizes(named.group_size)
    layers = [x for parameter in space.parameters for x in parameter.choices if isinstance(x, LayerChoice)]
    if any(choice.weight.group_size in sizes for choice in layers if _quantized(choice)):
        return
    reasons = [
        reason
        for what, reason in space.refused.items()
        if any(f"-g{size}" in what for size in sizes if size is not None) and what.startswith("blocks.")
    ]
    raise SpaceError(
        f"group size {', '.join(str(size or 0) for size in sizes)}",
        f"is taken by no layer: {reasons[0] if reasons else f'no format of {space.legality.engine} has it'}",
        "Leave it out, or name another",
    )


def _quantized(choice: object) -> bool:
    return isinstance(choice, LayerChoice) and not choice.weight.dense


def _reasons(space: SearchSpace, parameter: Parameter) -> list[str]:
    return [reason for what, reason in space.refused.items() if what.startswith(f"{parameter.name}: ")]


def _commonest(space: SearchSpace, parameters: list[Parameter]) -> str:
    counted = Counter(reason for parameter in parameters for reason in _reasons(space, parameter))
    return counted.most_common(1)[0][0] if counted else "no format was allowed"


def _unwritten(engine: Engine, space: SearchSpace, parameters: list[Parameter]) -> str:
    """Why no quantized choice of any parameter can be exported; empty where one can, or there is none."""
    reason = ""
    for parameter in parameters:
        for choice in parameter.choices:
            if isinstance(choice, LayerChoice) and _quantized(choice) and parameter.group is not None:
                config = CompressionConfig(layers=dict.fromkeys(parameter.group.layers, choice))
                verdict = engine.export_ruling(space.spec, config)
                if verdict:
                    return ""
                reason = reason or verdict.reason
    return reason

"""What a space does not hold, each reason once, and which weights are left without a choice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod

from paretune.spaces.choice import UNTOUCHED
from paretune.spaces.model import OUTSIDE_LANGUAGE, ModelSpec
from paretune.spaces.size import dense_bytes
from paretune.spaces.space import SearchSpace

_BLOCK = re.compile(r"(?<=[a-z]\.)\d+\b")
"""The index in ``blocks.0.qkv`` and ``model.layers.0.mlp``."""

_MUCH = 0.05
"""Share of the weights that may be without a choice before it is said."""


def by_reason(refused: Mapping[str, str]) -> dict[str, list[str]]:
    """What was refused (``GROUP: CHOICE``) by reason; reasons that differ in the block or the choice's name are one.

    Args:
        refused: reasons, as :attr:`SearchSpace.refused` has them.

    Returns:
        names by the first wording of their reason.
    """
    wordings: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for what, reason in refused.items():
        choice = what.rpartition(": ")[2]
        shared = reason.replace(choice, "*").replace(choice.partition("/")[0], "*")
        wording = wordings.setdefault(_BLOCK.sub("*", shared), _BLOCK.sub("*", reason))
        found.setdefault(wording, []).append(what)
    return found


def beside_language(spec: ModelSpec) -> list[str]:
    """A line that says what lies outside the language model, and that no evidence is of it; none where nothing does."""
    outside = [tensor for tensor in spec.fixed if tensor.kind == OUTSIDE_LANGUAGE]
    if not outside:
        return []
    size = sum(prod(tensor.shape) for tensor in outside) * (spec.fixed_dtype_bytes or spec.dtype_bytes)
    parts = dict.fromkeys(".".join(tensor.name.split(".")[:2]) for tensor in outside)
    share = 100 * size / dense_bytes(spec)
    return [
        f"text is the only evidence: {', '.join(parts)} ({size / 1e6:,.1f} MB, {share:.0f} % of the model) "
        "stays as it is, and no image or sound is read"
    ]


def without_choice(space: SearchSpace) -> list[str]:
    """Lines that say which weights have no choice though more was allowed, why, and what to change.

    Nothing where they are less than a twentieth of the model's.
    """
    spec = space.spec
    sizes = {linear.name: linear.weights for linear in spec.linears}
    total = sum(sizes[layer] for group in space.groups for layer in group.layers)
    stuck: dict[str, dict[str, int]] = {}
    for parameter in space.parameters:
        group = parameter.group
        refused = {w: why for w, why in space.refused.items() if w.startswith(f"{parameter.name}: ")}
        if group is None or not refused or any(choice != UNTOUCHED for choice in parameter.choices):
            continue
        reason = "; ".join(by_reason(refused))
        name = _BLOCK.sub("*", group.name)
        names = stuck.setdefault(reason, {})
        names[name] = names.get(name, 0) + sum(sizes[layer] for layer in group.layers)
    missing = sum(sum(names.values()) for names in stuck.values())
    if missing <= _MUCH * total:
        return []
    where = f"{space.legality.engine} on {space.legality.device}"
    lines = [
        f"{100 * missing / total:.0f} % of the weights stay as they are: {where} takes no format for them"
    ]
    lines += [f"  {', '.join(names)}: {reason}" for reason, names in stuck.items()]
    return [
        *lines,
        "  Another engine, device, group size or format may take them; `paretune engines` lists engines",
    ]

"""Which sizes a pruned model may have: the ladder that a model offers by default, or the one that a user names."""

from __future__ import annotations

from paretune.spaces.configuration import PrunedShape
from paretune.spaces.errors import SpaceError
from paretune.spaces.model import ModelSpec, PrunedKind
from paretune.spaces.patterns import Restrictions

LABELS: dict[PrunedKind, str] = {
    "blocks": "blocks",
    "kv_heads": "key-value heads",
    "ffn_channels": "FFN channels",
    "hidden": "hidden channels",
}
PRUNED_KINDS: tuple[PrunedKind, ...] = tuple(LABELS)


def pruned_ladders(spec: ModelSpec, restrictions: Restrictions) -> dict[PrunedKind, tuple[int, ...]]:
    """How many blocks, key-value heads, FFN and hidden channels may be kept, besides all of them; descending.

    By default: down to three quarters of the blocks, half of the key-value heads, and three quarters and half
    of the FFN channels where these are multiples of 64; hidden channels only where counts are named. A cut that the
    architecture cannot express is not offered (:attr:`~paretune.spaces.model.ModelSpec.uncuttable` has the reasons).

    Raises:
        SpaceError: a count that the model does not have, or that its architecture cannot express.
    """
    asked: dict[PrunedKind, tuple[int, ...]] = {
        "blocks": restrictions.blocks,
        "kv_heads": restrictions.kv_heads,
        "ffn_channels": restrictions.ffn_channels,
    }
    if restrictions.hidden:
        asked["hidden"] = restrictions.hidden
    return {kind: _ladder(spec, kind, counts) for kind, counts in asked.items()}


def full_count(spec: ModelSpec, kind: PrunedKind) -> int:
    """How many the dense model has."""
    return {
        "blocks": spec.blocks,
        "kv_heads": spec.kv_heads,
        "ffn_channels": spec.ffn_size,
        "hidden": spec.hidden_size,
    }[kind]


def size_refusal(spec: ModelSpec, pruned: PrunedShape) -> str | None:
    """Why the model's configuration refuses these sizes together; ``None`` if it does not."""
    hidden = pruned.hidden or spec.hidden_size
    heads = spec.heads // spec.kv_heads * (pruned.kv_heads or spec.kv_heads)
    if spec.heads_divide_hidden and (pruned.hidden or pruned.kv_heads) and hidden % heads:
        return f"{spec.family} configurations refuse a hidden size of {hidden} that is no multiple of {heads} heads"
    return None


def _ladder(spec: ModelSpec, kind: PrunedKind, asked: tuple[int, ...]) -> tuple[int, ...]:
    full, reason = full_count(spec, kind), spec.why_uncuttable(kind)
    for count in asked:
        what = f"{count} {LABELS[kind]}"
        if not 1 <= count <= full:
            raise SpaceError(what, f"the model has {full}", f"Keep between 1 and {full}")
        if reason is not None and count < full:
            raise SpaceError(what, reason, f"Keep all {full}")
    counts = asked or (() if reason is not None else _defaults(spec, kind))
    return tuple(sorted({count for count in counts if count < full}, reverse=True))


def _defaults(spec: ModelSpec, kind: PrunedKind) -> tuple[int, ...]:
    if kind == "blocks":
        step = max(1, spec.blocks // 16)
        return tuple(range(spec.blocks - step, max(1, 3 * spec.blocks // 4) - 1, -step))
    if kind == "kv_heads":
        return (spec.kv_heads // 2,) if spec.kv_heads % 2 == 0 else ()
    counts = (3 * spec.ffn_size // 4, spec.ffn_size // 2)
    return tuple(count for count in counts if count % 64 == 0 and count > 0)

"""Which models may leave out tokens or blocks while they run, and who serves that: nobody."""

from __future__ import annotations

from paretune.spaces.behaviour import Behaviour
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.legality import LEGAL, Ruling, illegal
from paretune.spaces.model import ModelSpec

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe")
"""Blocks with a norm before attention and before the FFN, none after; q, k, v projected apart."""

_SOURCE = "engines.behaviour"


def behaviour_ruling(spec: ModelSpec, config: CompressionConfig, behaviour: Behaviour) -> Ruling:
    """Whether our own loop can run ``behaviour`` on the candidate, and why not."""
    if not behaviour.active:
        return LEGAL
    if spec.family not in FAMILIES:
        return illegal(
            f"blocks of {spec.family} are not those of {', '.join(FAMILIES)}: "
            "a norm before attention and FFN, none after, and q_proj, k_proj, v_proj apart",
            _SOURCE,
        )
    kept = [block for block in range(spec.blocks) if config.keeps_block(block)]
    named = {
        "after_block": behaviour.tokens.after_block if behaviour.tokens and behaviour.tokens.active else 0,
        "from_block": behaviour.exit.from_block if behaviour.exit and behaviour.exit.active else 0,
    }
    for field, block in named.items():
        if block >= len(kept) - 1:
            return illegal(
                f"{field} {block} leaves no block to spare: the candidate's last one is {len(kept) - 1}",
                _SOURCE,
            )
    sliding = any(spec.cache[block].window is not None for block in kept)
    if behaviour.tokens and behaviour.tokens.active and sliding:
        return illegal(
            "sliding attention counts the tokens it looks back at, and would look further over dropped ones",
            _SOURCE,
        )
    return LEGAL


def serving_ruling(behaviour: Behaviour) -> Ruling:
    """Whether an export can carry ``behaviour`` to an engine that serves, and why not."""
    if not behaviour.active:
        return LEGAL
    return illegal(
        "no engine that serves models drops tokens after a block or stops between blocks; "
        "only the generation loop of torch and torch-cpu does, on request",
        _SOURCE,
    )

"""A configuration in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.legality import FusedGroup


def part_of(group: FusedGroup) -> str:
    """Its name without the block: ``qkv``, ``down``, ``embedding``, ``lm_head``."""
    if group.kind == "head":
        return "lm_head"
    return "block" if group.name == f"blocks.{group.block}" else group.name.rsplit(".", 1)[-1]


def choice_words(choice: LayerChoice) -> str:
    """``4 bit, groups of 128, rtn, half zeros``: one layer in words."""
    weight = choice.weight
    if weight.dense:
        words = [f"{weight.num_bits} bit"]
    elif weight.number_type != "int":
        words = [f"{weight.num_bits} bit", weight.name, choice.method]
    else:
        scale = "one scale per channel" if weight.group_size is None else f"groups of {weight.group_size}"
        words = [f"{weight.num_bits} bit", scale, choice.method]
    if choice.activation is not None:
        words.append(f"inputs {choice.activation.num_bits} bit")
    if choice.sparsity is not None:
        pattern = "" if choice.sparsity.pattern == "unstructured" else f" {choice.sparsity.pattern}"
        words.append(
            f"{choice.sparsity.fraction:.0%} zeros{pattern} by {choice.sparsity.criterion}".replace("%", " %")
        )
    return ", ".join(words)


def configuration_words(
    config: CompressionConfig, groups: tuple[FusedGroup, ...], blocks: int = 0
) -> list[str]:
    """A configuration in a few lines: widths of the linears, zeros, embedding and head, cache, pruned model."""
    kept = [group for group in groups if config.keeps_block(group.block)]
    inside = [config.choice(group.layers[0]) for group in kept if group.kind == "linear"]
    lines = []
    if inside:
        lines.append(f"linears: {_shares(_width(choice) for choice in inside)}")
        methods = Counter(choice.method for choice in inside if choice.method != "none")
        if methods:
            lines.append(f"method: {_shares(methods.elements())}")
        zeros = Counter(choice.sparsity.name for choice in inside if choice.sparsity is not None)
        if zeros:
            lines.append(
                f"zeros: {', '.join(_zeros(name, count, len(inside)) for name, count in zeros.items())}"
            )
    lines += [
        f"{part_of(group)}: {_width(config.choice(group.layers[0]))}" for group in kept if group.block is None
    ]
    lines.append(f"KV cache: {_cache(config.kv)}")
    pruned = pruned_words(config, blocks)
    return [*lines, f"pruned: {pruned}"] if pruned else lines


def pruned_words(config: CompressionConfig, blocks: int = 0) -> str:
    """``5 of 6 blocks, 384 FFN channels``; empty for the whole model."""
    pruned, parts = config.pruned, []
    if pruned.blocks is not None:
        parts.append(f"{len(pruned.blocks)}{f' of {blocks}' if blocks else ''} blocks")
    if pruned.kv_heads is not None:
        parts.append(f"{pruned.kv_heads} KV heads")
    if pruned.ffn_channels is not None:
        parts.append(f"{pruned.ffn_channels} FFN channels")
    if pruned.hidden is not None:
        parts.append(f"{pruned.hidden} hidden channels")
    return ", ".join(parts)


def block_count(groups: tuple[FusedGroup, ...]) -> int:
    """Blocks of the dense model."""
    return max((group.block + 1 for group in groups if group.block is not None), default=0)


def sparse(config: CompressionConfig) -> bool:
    """Whether any layer has zeros on purpose."""
    return any(choice.sparsity is not None for choice in config.layers.values())


def _cache(kv: KVFormat) -> str:
    return kv.name if kv.layers or kv.number_type != "int" else f"{kv.num_bits} bit"


def _width(choice: LayerChoice) -> str:
    """``4 bit``, ``8 bit fp8``: formats that are no plain integers are named."""
    weight = choice.weight
    words = f"{weight.num_bits} bit"
    if not weight.dense and weight.number_type != "int":
        words += f" {weight.name}"
    return words if choice.activation is None else f"{words} with {choice.activation.num_bits}-bit inputs"


def _zeros(name: str, count: int, total: int) -> str:
    share, _, pattern = name.removeprefix("s").partition("-")
    return f"{share} %{f' ({pattern})' if pattern else ''} in {count} of {total} groups"


def _shares(items: Iterable[str]) -> str:
    """``11 × 4 bit, 9 × 3 bit``; a single value without its count."""
    counts = Counter(items)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(
        f"{count} × {item}" for item, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    )

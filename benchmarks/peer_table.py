"""Which method of which library stands beside which of our rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Peer:
    """One row of a library.

    Attributes:
        method: word of ``compression.csv``.
        implementation: the library's name there.
        package: its distribution.
        program: module of :mod:`benchmarks.peer_programs`.
        num_bits: width of the codes.
        group_size: inputs that share a scale.
        symmetric: whether there are no zero points.
        options: for the program.
    """

    method: str
    implementation: str
    package: str
    program: str
    num_bits: int
    group_size: int = 128
    symmetric: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


_LLM_COMPRESSOR = ("llm-compressor", "llmcompressor", "llm_compressor")

PEERS: tuple[Peer, ...] = (
    *(Peer("rtn", *_LLM_COMPRESSOR, bits, options={"observer": "memoryless_mse"}) for bits in (3, 4)),
    *(Peer("minmax", *_LLM_COMPRESSOR, bits, options={"observer": "memoryless_minmax"}) for bits in (3, 4)),
    *(Peer("gptq", *_LLM_COMPRESSOR, bits) for bits in (3, 4)),
    *(Peer("hqq", "hqq", "hqq", "half_quadratic", bits, symmetric=False) for bits in (2, 3, 4, 5, 6, 8)),
    *(Peer("awq", *_LLM_COMPRESSOR, bits, symmetric=even) for bits in (3, 4) for even in (True, False)),
    *(Peer("autoround", "auto-round", "auto-round", "learned_rounding", bits) for bits in (3, 4)),
    *(
        Peer(f"w8a8-{how}", "llm-compressor", "llmcompressor", "inputs", 8, 0)
        for how in ("static", "dynamic")
    ),
    Peer("nf4", "bitsandbytes", "bitsandbytes", "normal_float", 4, group_size=64),
)
"""Rows of ``compression.csv``. The library has no percentile or entropy observer for integer weights."""

VARIANTS: tuple[Peer, ...] = tuple(
    Peer("gptq", *_LLM_COMPRESSOR, bits, options={"actorder": order})
    for bits in (3, 4)
    for order in ("none", "weight")
)
"""Settings that are not the library's defaults: measured on request, no row of the table."""

PRUNING_PEERS: tuple[Peer, ...] = tuple(
    Peer(criterion, *_LLM_COMPRESSOR, 16, options={"sparsity": 0.5, "mask_structure": structure})
    for criterion in ("sparsegpt", "wanda")
    for structure in ("0:0", "2:4")
)
"""Rows of ``pruning.csv``."""

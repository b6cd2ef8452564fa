"""Which operations a candidate runs at a workload: the bridge from configurations to cost tables.

Prefill reads every prompt of the batch; the head sees the last position of each. A decode step adds one token
to every sequence, at the mean context of the answer. Norms, rotary embedding and the host's own work are not
operations: they are the overhead that a predictor fits.
"""

from __future__ import annotations

from collections.abc import Iterator

from paretune.engines.operation import Kind, Operation, Phase, merged
from paretune.engines.runtime.attention_kernels import attention_kernel
from paretune.engines.selection import Select, Selection, look_up_kernel
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_extent, kept_shape
from paretune.spaces.target import Workload

PHASES: tuple[Phase, ...] = ("prefill", "decode")


def workload_operations(
    spec: ModelSpec, config: CompressionConfig, workload: Workload, select: Select
) -> tuple[Operation, ...]:
    """Every operation of both phases, equal ones merged."""
    found: list[Operation] = []
    layers = [
        (linear, *kept_shape(spec, linear, config.pruned))
        for linear in spec.linears
        if config.keeps_block(linear.block)
    ]
    chosen = [(linear, n, k, select(_choice(spec, config, linear), n, k)) for linear, n, k in layers]
    for phase in PHASES:
        tokens = workload.batch * (workload.prompt_tokens if phase == "prefill" else 1)
        found += [_linear(spec, workload, phase, tokens, layer) for layer in chosen]
        found += _attention(spec, config, workload, phase)
    return merged(found)


def layer_selections(spec: ModelSpec, config: CompressionConfig, select: Select) -> dict[str, Selection]:
    """The kernel of every kept layer by name; a tied head is selected by the embedding's choice."""
    return {
        linear.name: select(_choice(spec, config, linear), *kept_shape(spec, linear, config.pruned))
        for linear in spec.linears
        if config.keeps_block(linear.block)
    }


def _choice(spec: ModelSpec, config: CompressionConfig, linear: Linear) -> LayerChoice:
    tied = spec.tied and linear.role == "head"
    return config.choice(spec.embedding.name if tied else linear.name)


def _linear(
    spec: ModelSpec,
    workload: Workload,
    phase: Phase,
    tokens: int,
    layer: tuple[Linear, int, int, Selection],
) -> Operation:
    linear, n, k, chosen = layer
    kind: Kind = "linear"
    kernel, rows, count = chosen.kernel, tokens, 1
    if linear.role == "head":
        rows = workload.batch
    elif linear.role == "embedding":
        kind, kernel = "embedding", look_up_kernel(chosen)
    elif linear.role.startswith("expert"):
        rows, count = _expert_share(spec, tokens)
    return Operation(
        kind, phase, kernel, rows, n, k, count, chosen.num_bits, chosen.group_size, chosen.symmetric,
        chosen.sparsity, note=chosen.note,
    )  # fmt: skip


def _expert_share(spec: ModelSpec, tokens: int) -> tuple[int, int]:
    """Tokens of each expert that is hit and how many are, if the router spreads tokens evenly."""
    share = spec.active_experts / spec.experts
    hit = max(spec.active_experts, round(spec.experts * (1.0 - (1.0 - share) ** tokens)))
    return max(1, round(tokens * spec.active_experts / hit)), hit


def _attention(
    spec: ModelSpec, config: CompressionConfig, workload: Workload, phase: Phase
) -> Iterator[Operation]:
    context = workload.prompt_tokens + (0 if phase == "prefill" else (workload.output_tokens + 1) // 2)
    for block, layer in enumerate(spec.cache):
        if not config.keeps_block(block):
            continue
        kv_heads, kv = kept_extent(spec, "kv_heads", layer.kv_heads, config.pruned), config.kv.block(block)
        yield Operation(
            "attention",
            phase,
            attention_kernel(kv),
            m=workload.prompt_tokens if phase == "prefill" else 1,
            n=workload.prompt_tokens if phase == "prefill" else layer.tokens(context),
            k=layer.head_dim,
            num_bits=kv.num_bits,
            batch=workload.batch,
            heads=spec.heads // spec.kv_heads * kv_heads,
            kv_heads=kv_heads,
        )

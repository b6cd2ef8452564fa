"""What a candidate computes at a workload, once for all who count it: cost tables of kernels, and rooflines.

Prefill reads every prompt of the batch; the head sees the last position of each. A decode step adds one token
to every sequence, at the mean context of the answer. Norms, rotary embedding and the host's own work are not
operations: they are the overhead that a predictor fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from paretune.engines.operation import Kind, Operation, Phase, merged
from paretune.engines.runtime.attention_kernels import attention_kernel
from paretune.engines.selection import Select, Selection, look_up_kernel
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_extent, kept_shape
from paretune.spaces.target import Workload

PHASES: tuple[Phase, ...] = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One product or look-up of a pass over the model, whoever computes it.

    Attributes:
        linear: whose it is.
        layer: whose choice its weight has: a tied head's is the embedding's.
        rows, columns: of its weight in the pruned model, of one expert.
        tokens: that enter it; of a mixture, pairs of a token and an expert.
        experts: that at least one token reaches, in expectation where the router spreads tokens evenly; 1 elsewhere.
    """

    linear: Linear
    layer: str
    rows: int
    columns: int
    tokens: int
    experts: float = 1.0

    @property
    def multiplications(self) -> float:
        """Multiplications and additions; a look-up has none."""
        return 0.0 if self.linear.role == "embedding" else 2.0 * self.tokens * self.rows * self.columns


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """Attention of a block, of every sequence.

    Attributes:
        block: index in the dense model.
        heads, kv_heads, width: of the pruned model.
        queries: tokens of a sequence that look back.
        seen: tokens of a sequence that are in the cache by then.
        pairs: of a query and a token that it attends to, of a sequence.
    """

    block: int
    heads: int
    kv_heads: int
    width: int
    queries: int
    seen: int
    pairs: int


def model_calls(
    spec: ModelSpec, config: CompressionConfig, workload: Workload, phase: Phase
) -> Iterator[LayerCall | AttentionCall]:
    """What the candidate multiplies and looks up in a phase: all of it but norms and what is done to tokens one by one.

    Prefill reads every prompt of the batch, decoding adds a token to every sequence in the middle of its answer.
    """
    tokens = workload.batch * (workload.prompt_tokens if phase == "prefill" else 1)
    for linear in spec.linears:
        if config.keeps_block(linear.block):
            rows, columns = kept_shape(spec, linear, config.pruned)
            head = linear.role == "head"
            layer = spec.embedding.name if head and spec.tied else linear.name
            entering, experts = workload.batch if head else tokens, 1.0
            if linear.experts > 1:
                entering, experts = tokens * spec.active_experts, touched_experts(spec, tokens)
            yield LayerCall(linear, layer, rows, columns, entering, experts)
    for block, cache in spec.attention:
        if config.keeps_block(block):
            kv_heads = kept_extent(spec, "kv_heads", cache.kv_heads, config.pruned)
            queries = seen = workload.prompt_tokens
            pairs = attended_pairs(queries, cache.window)
            if phase == "decode":
                seen = pairs = cache.tokens(workload.prompt_tokens + (workload.output_tokens + 1) // 2)
                queries = 1
            heads = spec.heads // spec.kv_heads * kv_heads
            yield AttentionCall(block, heads, kv_heads, cache.head_dim, queries, seen, pairs)


def touched_experts(spec: ModelSpec, tokens: int) -> float:
    """Experts of a block that at least one of ``tokens`` uses, in expectation when routing is uniform."""
    missed: float = (1.0 - spec.active_experts / spec.experts) ** tokens
    return spec.experts * (1.0 - missed)


def attended_pairs(tokens: int, window: int | None) -> int:
    """Pairs of query and key that causal attention multiplies over a prompt of ``tokens``."""
    wide = tokens if window is None else min(tokens, window)
    return wide * (wide + 1) // 2 + (tokens - wide) * wide


def workload_operations(
    spec: ModelSpec, config: CompressionConfig, workload: Workload, select: Select
) -> tuple[Operation, ...]:
    """Every operation of both phases as the kernels run them, equal ones merged."""
    found: list[Operation] = []
    for phase in PHASES:
        for call in model_calls(spec, config, workload, phase):
            if isinstance(call, LayerCall):
                found.append(_linear(config, phase, call, select))
            else:
                found.append(_attention(config, workload, phase, call))
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


def _linear(config: CompressionConfig, phase: Phase, call: LayerCall, select: Select) -> Operation:
    """A whole number of experts, each with as many tokens as the others."""
    chosen = select(config.choice(call.layer), call.rows, call.columns)
    kind: Kind = "embedding" if call.linear.role == "embedding" else "linear"
    kernel = look_up_kernel(chosen) if kind == "embedding" else chosen.kernel
    count = round(call.experts)
    return Operation(
        kind, phase, kernel, max(1, round(call.tokens / count)), call.rows, call.columns, count, chosen.num_bits,
        chosen.group_size, chosen.symmetric, chosen.sparsity, note=chosen.note,
    )  # fmt: skip


def _attention(config: CompressionConfig, workload: Workload, phase: Phase, call: AttentionCall) -> Operation:
    """The kernels here skip nothing that a mask hides."""
    kv = config.kv.block(call.block)
    return Operation(
        "attention",
        phase,
        attention_kernel(kv),
        m=call.queries,
        n=call.seen,
        k=call.width,
        num_bits=kv.num_bits,
        batch=workload.batch,
        heads=call.heads,
        kv_heads=call.kv_heads,
    )

"""Exact sizes: what a configuration weighs, and what a workload needs. The one oracle of both.

Everything else that speaks of bytes (space, bank, engines, reports) asks here.
"""

from __future__ import annotations

from math import prod

from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.containers import StoredBytes, graph_bytes, unpacked_bytes
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.form_bytes import FORM_CONTAINERS, form_bytes
from paretune.spaces.model import (
    AttentionCache,
    Axis,
    FixedTensor,
    LatentCache,
    Linear,
    ModelSpec,
    StateCache,
)
from paretune.spaces.target import Workload


def kept_extent(spec: ModelSpec, axis: Axis, extent: int, pruned: PrunedShape) -> int:
    """Length of an axis of ``extent`` in the pruned model."""
    if axis in ("heads", "kv_heads", "qkv") and pruned.kv_heads is not None:
        return extent // spec.kv_heads * pruned.kv_heads
    if axis in ("ffn", "ffn_pair") and pruned.ffn_channels is not None:
        return extent // spec.ffn_size * pruned.ffn_channels
    if axis == "hidden" and pruned.hidden is not None:
        return pruned.hidden
    return extent


def kept_shape(spec: ModelSpec, linear: Linear, pruned: PrunedShape) -> tuple[int, int]:
    """``(out_features, in_features)`` of a layer in the pruned model."""
    return (
        kept_extent(spec, linear.out_axis, linear.out_features, pruned),
        kept_extent(spec, linear.in_axis, linear.in_features, pruned),
    )


def kept_linears(spec: ModelSpec, config: CompressionConfig) -> tuple[Linear, ...]:
    """Layers that the candidate stores: kept blocks, and a tied head only once (as the embedding)."""
    return tuple(
        linear
        for linear in spec.linears
        if config.keeps_block(linear.block) and not (spec.tied and linear.role == "head")
    )


def layer_bytes(spec: ModelSpec, linear: Linear, config: CompressionConfig) -> StoredBytes:
    """Stored bytes of one kept layer (all experts).

    An unpacked embedding that is tied to a head is stored once and its scales and zero points for both.
    """
    rows, columns = kept_shape(spec, linear, config.pruned)
    choice = config.choice(linear.name)
    weight, count = choice.weight, linear.pieces * linear.experts
    inputs = count * _input_bytes(choice.activation, spec.dtype_bytes)
    if spec.container == "graph" and not weight.dense:
        one = graph_bytes(rows, columns, weight, spec.dtype_bytes)
        return StoredBytes(one.payload * linear.experts, 0)
    if spec.container in FORM_CONTAINERS and not weight.dense:
        return form_bytes(spec.container, (rows, columns), weight, spec.dtype)
    if lies_unpacked(linear, choice):
        owners = 2 if linear.role == "embedding" and spec.tied else 1
        one = unpacked_bytes(rows // linear.pieces, columns, weight, spec.dtype_bytes, owners)
    else:
        one = weight.stored_bytes((rows // linear.pieces, columns), spec.dtype_bytes)
    return StoredBytes(one.payload * count, one.overhead * count + inputs)


def lies_unpacked(linear: Linear, choice: LayerChoice) -> bool:
    """Whether 8-bit codes lie in place of the weight, a byte each: where nothing else can be loaded.

    An embedding has no other form in ``transformers``, nor have weights of integer products (W8A8) in vLLM.
    """
    weight, inputs = choice.weight, choice.activation
    if weight.number_type != "int" or weight.num_bits != 8:
        return False
    if linear.role == "embedding":
        return True
    plain = weight.symmetric and weight.group_size is None
    return plain and inputs is not None and inputs.number_type == "int"


def _input_bytes(inputs: ActivationFormat | None, dtype_bytes: int) -> int:
    """The scale of a static input, or the float32 factor over the scales of its groups; of one stored linear."""
    if inputs is None or not inputs.calibrated:
        return 0
    return dtype_bytes if inputs.scale == "model" else 4


def weight_bytes(spec: ModelSpec, config: CompressionConfig) -> int:
    """Bytes of every tensor of the export (file headers excluded); of the dense model those that it came with."""
    if spec.shipped is not None and config == DENSE_CONFIG:
        return spec.shipped.weight_bytes
    linears = sum(layer_bytes(spec, linear, config).total for linear in kept_linears(spec, config))
    return linears + sum(fixed_bytes(spec, tensor, config) for tensor in spec.fixed)


def fixed_bytes(spec: ModelSpec, tensor: FixedTensor, config: CompressionConfig) -> int:
    """Bytes of a tensor that is never quantized; 0 when its block is cut."""
    if not config.keeps_block(tensor.block):
        return 0
    axes = (tensor.axis, tensor.inner_axis)
    kept = [kept_extent(spec, *pair, config.pruned) for pair in zip(axes, tensor.shape, strict=False)]
    return prod(kept) * prod(tensor.shape[2:]) * (spec.fixed_dtype_bytes or spec.dtype_bytes)


def kept_weights(spec: ModelSpec, config: CompressionConfig) -> int:
    """Weights of the kept linears inside the blocks: the denominator of :func:`average_bits`."""
    return sum(
        prod(kept_shape(spec, linear, config.pruned)) * linear.experts
        for linear in spec.block_linears
        if config.keeps_block(linear.block)
    )


def average_bits(spec: ModelSpec, config: CompressionConfig) -> float:
    """Stored bits (codes, scales, zero points) of the kept linears inside the blocks, per kept weight."""
    payload = sum(
        layer_bytes(spec, linear, config).payload
        for linear in spec.block_linears
        if config.keeps_block(linear.block)
    )
    return 8 * payload / kept_weights(spec, config)


def kv_cache_bytes(spec: ModelSpec, config: CompressionConfig, workload: Workload) -> int:
    """Bytes of keys, values and states when every sequence of the batch has reached its full length."""
    kept = (block for block in range(spec.blocks) if config.keeps_block(block))
    return workload.batch * sum(_cache_bytes(spec, config, block, workload.context) for block in kept)


def _cache_bytes(spec: ModelSpec, config: CompressionConfig, block: int, context: int) -> int:
    """What one block keeps of one sequence. Latent caches and states stay in the model's dtype."""
    cache, kv = spec.cache[block], config.kv.block(block)
    if isinstance(cache, AttentionCache):
        heads = kept_extent(spec, "kv_heads", cache.kv_heads, config.pruned)
        widths = (cache.head_dim, cache.head_dim if cache.value_dim is None else cache.value_dim)
        # A format stores keys and values of one width alike, so half of each where they differ.
        both = sum(kv.stored_bytes(heads, width, spec.dtype_bytes) for width in widths)
        return cache.tokens(context) * both // 2 + cache.state * spec.dtype_bytes
    if isinstance(cache, LatentCache):
        return context * (cache.width + cache.indexer) * spec.dtype_bytes
    return cache.numbers * spec.dtype_bytes if isinstance(cache, StateCache) else 0


def activation_bytes(spec: ModelSpec, config: CompressionConfig, workload: Workload) -> int:
    """Peak bytes of intermediate results while the prompt is read, in the model's dtype.

    The larger of two moments: the widest block (residual stream, normed copy and the widest pair of linear
    outputs for every prompt token), and the head (logits of the last position of each sequence). Devices that share
    layers share the linear outputs; each has the residual stream, and one gathers the logits.
    """
    widest = 0
    for linear in spec.block_linears:
        if config.keeps_block(linear.block):
            factor = max(1, spec.active_experts)
            rows, columns = kept_shape(spec, linear, config.pruned)
            widest = max(widest, (rows + columns) * (factor if linear.experts > 1 else 1))
    hidden = kept_extent(spec, "hidden", spec.hidden_size, config.pruned)
    prompt = workload.batch * workload.prompt_tokens * (2 * hidden + -(-widest // workload.tensor_parallel))
    head = workload.batch * (workload.prompt_tokens * hidden + spec.vocabulary)
    return max(prompt, head) * spec.dtype_bytes


def memory_bytes(
    spec: ModelSpec, config: CompressionConfig, workload: Workload, weights: int | None = None
) -> int:
    """Weights, cache and activations at the workload, on each device of ``tensor_parallel``.

    Layers are divided; norms and other tensors that are never quantized lie on every device, and so do the key-value
    heads of devices that share one, with their part of the cache, where there are more devices than such heads.

    Args:
        spec: the model.
        config: the candidate.
        workload: what it does.
        weights: :func:`weight_bytes`, where the caller has it already.
    """
    devices, everywhere = workload.tensor_parallel, 0
    total = weight_bytes(spec, config) if weights is None else weights
    if devices > 1:
        everywhere = sum(fixed_bytes(spec, tensor, config) for tensor in spec.fixed)
        total += (kv_copies(spec, config, devices) - 1) * _kv_projection_bytes(spec, config) - everywhere
    total += kv_copies(spec, config, devices) * kv_cache_bytes(spec, config, workload)
    return -(-total // devices) + everywhere + activation_bytes(spec, config, workload)


def kv_copies(spec: ModelSpec, config: CompressionConfig, devices: int) -> int:
    """How many of the devices hold each key-value head: more than one where there are more devices than heads."""
    return max(1, devices // kept_extent(spec, "kv_heads", spec.kv_heads, config.pruned))


def _kv_projection_bytes(spec: ModelSpec, config: CompressionConfig) -> int:
    """Of the layers that make keys and values; of those stacked with the queries, the part that does."""
    share = {"kv_heads": 1.0, "qkv": 2 * spec.kv_heads / (spec.heads + 2 * spec.kv_heads)}
    return round(
        sum(
            share[linear.out_axis] * layer_bytes(spec, linear, config).total
            for linear in kept_linears(spec, config)
            if linear.out_axis in share
        )
    )


def check_heads(spec: ModelSpec, workload: Workload) -> None:
    """Refuse devices that heads cannot be divided among, as serving engines do.

    Raises:
        ConfigurationError: heads do not divide evenly, or key-value heads neither divide nor are copied evenly.
    """
    devices = workload.tensor_parallel
    if spec.heads % devices or (spec.kv_heads % devices and devices % spec.kv_heads):
        raise ConfigurationError(
            f"tensor_parallel={devices}",
            f"{spec.heads} heads and {spec.kv_heads} key-value heads cannot be divided among so many devices",
            "Use a number of devices that divides the heads",
        )


def dense_bytes(spec: ModelSpec) -> int:
    """Bytes of the model as it is."""
    return weight_bytes(spec, DENSE_CONFIG)


def kept_name(spec: ModelSpec, pruned: PrunedShape, name: str) -> str:
    """The name of a module or tensor in the pruned model: blocks are counted anew."""
    prefix = f"{spec.block_path}."
    if pruned.blocks is None or not name.startswith(prefix):
        return name
    block, _, rest = name.removeprefix(prefix).partition(".")
    return f"{prefix}{pruned.blocks.index(int(block))}.{rest}"

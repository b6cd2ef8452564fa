"""A language model as a search sees it: blocks, linears with shapes, everything else, cache geometry.

A :class:`ModelSpec` needs no weights; :mod:`paretune.spaces.architectures` derives it from ``transformers``.
"""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import Annotated, Literal

from pydantic import Field

from paretune.spaces.containers import Container
from paretune.spaces.errors import ModelError
from paretune.spaces.schema import Document, Frozen

Role = str
"""What a layer computes: ``q``, ``k``, ``v``, ``qkv``, ``o``; ``gate``, ``up``, ``gate_up``, ``down``, the same of
shared experts behind ``shared_`` and of routed ones behind ``expert_``; ``embedding``, ``head``; of everything else its
path inside the block (``linear_attn.out_proj``). Open: a family may have roles that no other has.
"""
Axis = Literal["none", "heads", "kv_heads", "qkv", "ffn", "ffn_pair", "hidden"]
"""What an axis of a tensor counts, hence what a smaller pruned model takes away from it.

``heads``: query heads x head_dim; ``kv_heads``: key-value heads x head_dim; ``qkv``: the three stacked
(queries, keys, values); ``ffn``: FFN channels; ``ffn_pair``: gate and up stacked; ``hidden``: channels of the residual
stream, the same ones in every tensor.
"""


class Linear(Frozen):
    """One layer: a linear, an embedding or a head, or the same linear of all experts of a block.

    Attributes:
        name: module path in ``transformers`` (for experts held in one 3-D parameter: its path).
        parameter: name of the weight in ``named_parameters()``.
        role: what it computes.
        block: index of its block, ``None`` outside the blocks.
        out_features, in_features: of the dense model; rows and reduction axis.
        experts: how many matrices of that shape the parameter holds.
        pieces: linears that each matrix is stored as in an export (an expert's gate and up are two).
        transposed: stored ``(in, out)``, as GPT-2's ``Conv1D`` does.
        out_axis, in_axis: what the axes count.
    """

    name: str
    parameter: str
    role: Role
    block: int | None
    out_features: int
    in_features: int
    experts: int = 1
    pieces: int = 1
    transposed: bool = False
    out_axis: Axis = "none"
    in_axis: Axis = "none"

    @property
    def stacked(self) -> bool:
        """Whether the parameter holds the matrices of all experts, ``(experts, rows, columns)``."""
        return self.role.startswith("expert_")

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the parameter in the dense model."""
        shape = (self.out_features, self.in_features)
        if self.transposed:
            shape = shape[::-1]
        return (self.experts, *shape) if self.stacked else shape

    @property
    def weights(self) -> int:
        """Number of weights in the dense model."""
        return self.out_features * self.in_features * self.experts


OUTSIDE_LANGUAGE = "outside the language model"
"""Kind of the tensors of a vision tower, of what joins it to the language part, and their like."""


class FixedTensor(Frozen):
    """A tensor that is never quantized.

    Attributes:
        name: in ``named_parameters()``.
        shape: in the dense model.
        block: index of its block, ``None`` outside.
        axis: what its first axis counts.
        inner_axis: what its second axis counts, where it has one.
        kind: why it is no candidate: ``norm``, ``bias``, ``router``, ``convolution``, ``state`` ...; a ``buffer`` is
            stored and is no parameter.
    """

    name: str
    shape: tuple[int, ...]
    block: int | None = None
    axis: Axis = "none"
    inner_axis: Axis = "none"
    kind: str = "norm"


class AttentionCache(Frozen):
    """Keys and values of a block.

    Attributes:
        kv_heads, head_dim: of the keys.
        value_dim: of a value, where it is another than a key's.
        window: tokens that sliding attention keeps; ``None``: all.
        shared: whether an earlier block keeps them for this one too.
        state: numbers that a recurrence beside attention keeps of a sequence (Falcon-H1).
    """

    kind: Literal["attention"] = "attention"
    kv_heads: int
    head_dim: int
    value_dim: int | None = None
    window: int | None = None
    shared: bool = False
    state: int = 0

    def tokens(self, context: int) -> int:
        """Tokens kept at ``context``."""
        if self.shared:
            return 0
        return context if self.window is None else min(context, self.window)


class LatentCache(Frozen):
    """What latent attention keeps of a token for all heads together (DeepSeek-V2, arXiv:2405.04434).

    Attributes:
        width: numbers a token: the compressed keys and values, and the keys with positions.
        indexer: numbers a token that choose which tokens are attended to, where something does.
    """

    kind: Literal["latent"] = "latent"
    width: int
    indexer: int = 0


class StateCache(Frozen):
    """What a recurrence keeps of a sequence, however long it is (Mamba, gated delta net, short convolution).

    Attributes:
        numbers: of the state and of the convolution's last inputs.
    """

    kind: Literal["state"] = "state"
    numbers: int


class NoCache(Frozen):
    """A block that keeps nothing: it has no mixer of tokens."""

    kind: Literal["none"] = "none"


Cache = Annotated[AttentionCache | LatentCache | StateCache | NoCache, Field(discriminator="kind")]
"""What one block keeps per sequence."""


class Block(Frozen):
    """What one block is, where blocks differ.

    Attributes:
        mixer: how tokens see one another: ``attention``, ``latent``, ``state`` or ``none``.
        heads: query heads; 0 without attention.
        ffn: channels of the feed-forward part, of one expert in a mixture; 0 without one.
        experts, active_experts: of its mixture; 0 where it is none.
        shared_experts: channels that every token goes through beside the routed experts.
        cache: what it keeps.
    """

    mixer: Literal["attention", "latent", "state", "none"] = "attention"
    heads: int = 0
    ffn: int = 0
    experts: int = 0
    active_experts: int = 0
    shared_experts: int = 0
    cache: Cache


PrunedKind = Literal["blocks", "kv_heads", "ffn_channels", "hidden"]
"""What a pruned model may have fewer of; fields of :class:`~paretune.spaces.configuration.PrunedShape`."""


class Uncuttable(Frozen):
    """A cut that a pruned model of this architecture cannot have, and why.

    Attributes:
        kind: what cannot be left out.
        reason: for people.
    """

    kind: PrunedKind
    reason: str


class Shipped(Frozen):
    """A checkpoint that ships quantized, as it came.

    Attributes:
        method: that it is quantized by.
        weight_bytes: of its files.
        exact: whether that was read from the files, or follows from what its configuration says.
    """

    method: str
    weight_bytes: int
    exact: bool = True


class ModelSpec(Document):
    """A model without its weights; of a checkpoint that ships quantized, the model that it dequantizes to.

    Attributes:
        source: folder or id it was read from.
        revision: of a hub id.
        model_type, architecture: as in ``config.json``.
        family: what related configurations have in common: ``model_type`` of its language part.
        dtype: ``bfloat16``, ``float16`` or ``float32``: how the checkpoint stores weights.
        block_path: module path of the list of blocks, e.g. ``model.layers``.
        heads, kv_heads, head_dim: attention geometry (of the first block with attention where blocks differ).
        ffn_size: FFN channels (of one expert in a mixture).
        experts, active_experts: 0 for a model without mixtures.
        context: longest sequence.
        tied: embedding and head are one tensor.
        linears: the layers, in the order of execution; the head is listed also when tied (0 bytes of its own).
        fixed: every other tensor of the checkpoint.
        layout: what each block is.
        uncuttable: cuts that the architecture cannot express.
        heads_divide_hidden: whether its configuration refuses a hidden size that is no multiple of the heads.
        fixed_dtype_bytes: of one number of what is never quantized, where an engine's container has its own
            (:meth:`paretune.engines.engine.Engine.stored`); ``None``: that of the checkpoint.
        container: what holds quantized integers, where an engine has its own (likewise).
        shipped: what the checkpoint was before it was dequantized; ``None`` where it ships as it is.
    """

    source: str
    revision: str | None = None
    model_type: str
    architecture: str
    family: str
    dtype: Literal["bfloat16", "float16", "float32"]
    block_path: str
    blocks: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_size: int
    vocabulary: int
    context: int
    tied: bool
    experts: int = 0
    active_experts: int = 0
    linears: tuple[Linear, ...]
    fixed: tuple[FixedTensor, ...]
    layout: tuple[Block, ...]
    uncuttable: tuple[Uncuttable, ...] = ()
    heads_divide_hidden: bool = False
    fixed_dtype_bytes: int | None = Field(None, exclude_if=lambda value: value is None)
    container: Container = Field("compressed-tensors", exclude_if=lambda value: value == "compressed-tensors")
    shipped: Shipped | None = Field(None, exclude_if=lambda value: value is None)

    @property
    def cache(self) -> tuple[Cache, ...]:
        """What each block keeps."""
        return tuple(block.cache for block in self.layout)

    @property
    def attention(self) -> tuple[tuple[int, AttentionCache], ...]:
        """Blocks with plain attention, and what they keep."""
        return tuple((i, x) for i, x in enumerate(self.cache) if isinstance(x, AttentionCache))

    def why_uneven(self) -> str | None:
        """What keeps the blocks from being alike, each with keys and values of its own; ``None`` if they are.

        Caches of fixed buffers and graphs are made for models whose blocks are.
        """
        for block, cache in enumerate(self.cache):
            if not isinstance(cache, AttentionCache):
                return f"block {block} keeps {'nothing' if cache.kind == 'none' else f'a {cache.kind} cache'}"
            if cache.shared or cache.state:
                return f"block {block} {'shares its keys' if cache.shared else 'keeps a state too'}"
            if cache.value_dim is not None:
                return f"block {block} has values of another width than its keys"
        return None

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one unquantized number."""
        return 4 if self.dtype == "float32" else 2

    @cached_property
    def _by_name(self) -> dict[str, Linear]:
        return {linear.name: linear for linear in self.linears}

    def linear(self, name: str) -> Linear:
        """The layer called ``name``.

        Raises:
            ModelError: the model has no such layer.
        """
        found = self._by_name.get(name)
        if found is None:
            raise ModelError(
                f"layer {name!r}", f"is not a linear of {self.source}", "`paretune inspect` lists them"
            )
        return found

    def of_role(self, *roles: Role) -> tuple[Linear, ...]:
        """Layers with one of these roles, in order."""
        return tuple(linear for linear in self.linears if linear.role in roles)

    @cached_property
    def block_linears(self) -> tuple[Linear, ...]:
        """Layers inside the blocks."""
        return tuple(linear for linear in self.linears if linear.block is not None)

    def why_uncuttable(self, kind: PrunedKind) -> str | None:
        """Why a pruned model cannot have fewer of ``kind``; ``None`` if it can."""
        return next((cut.reason for cut in self.uncuttable if cut.kind == kind), None)

    @property
    def embedding(self) -> Linear:
        """The token embedding."""
        return self.of_role("embedding")[0]

    @property
    def head(self) -> Linear:
        """The output head (shares its weight with the embedding where ``tied``)."""
        return self.of_role("head")[0]

    @cached_property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the dense model by its name in ``named_parameters()``; a tied head is not there."""
        shapes = {x.parameter: x.stored_shape for x in self.linears if not (self.tied and x.role == "head")}
        return shapes | {tensor.name: tensor.shape for tensor in self.fixed if tensor.kind != "buffer"}

    @cached_property
    def parameters(self) -> int:
        """Parameters of the dense model, tied ones counted once."""
        return sum(prod(shape) for shape in self.parameter_shapes.values())

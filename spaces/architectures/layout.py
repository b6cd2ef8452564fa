"""What a family's file hands over: geometry, layers and fixed tensors, in the order of execution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from paretune.spaces.architectures.fields import ConfigFields
from paretune.spaces.model import Axis, FixedTensor, Linear, Role, Uncuttable


@dataclass(frozen=True)
class Geometry:
    """The numbers of a model; ``windows`` has one entry a block (``None``: attends to everything)."""

    blocks: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    context: int
    tied: bool
    windows: tuple[int | None, ...]
    experts: int = 0
    active_experts: int = 0

    @property
    def query_width(self) -> int:
        """Features of all query heads."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Features of all keys (or values)."""
        return self.kv_heads * self.head_dim


_READERS = ("q", "k", "v", "qkv", "gate", "up", "gate_up", "expert_gate_up", "embedding", "head")
_WRITERS = ("o", "down", "expert_down")


def _with_hidden(role: Role, axes: tuple[Axis, Axis]) -> tuple[Axis, Axis]:
    """The axes (out, in) of a linear, with the one that lies on the residual stream named.

    An embedding's columns are hidden channels as a head's are.
    """
    if role in _WRITERS:
        return "hidden", axes[1]
    return (axes[0], "hidden") if role in _READERS else axes


@dataclass
class Layout:
    """Collects the tensors of a model.

    Attributes:
        block_path: module path of the list of blocks.
        uncuttable: which cuts the architecture cannot express, and why.
    """

    block_path: str
    linears: list[Linear] = field(default_factory=list)
    fixed: list[FixedTensor] = field(default_factory=list)
    uncuttable: list[Uncuttable] = field(default_factory=list)

    def linear(
        self,
        name: str,
        role: Role,
        shape: tuple[int, int],
        *,
        block: int | None = None,
        axes: tuple[Axis, Axis] = ("none", "none"),
        bias: bool = False,
        transposed: bool = False,
    ) -> None:
        """Add the layer ``name`` of ``shape`` (out, in), whose ``axes`` count the same two, and its bias.

        The axis on the residual stream need not be named.
        """
        axes = _with_hidden(role, axes)
        self.linears.append(
            Linear(
                name=name,
                parameter=f"{name}.weight",
                role=role,
                block=block,
                out_features=shape[0],
                in_features=shape[1],
                transposed=transposed,
                out_axis=axes[0],
                in_axis=axes[1],
            )
        )
        if bias:
            self.tensor(f"{name}.bias", (shape[0],), block=block, axis=axes[0])

    def experts(
        self,
        name: str,
        role: Role,
        shape: tuple[int, int],
        *,
        block: int,
        axes: tuple[Axis, Axis],
        experts: int,
        pieces: int = 1,
    ) -> None:
        """Add the linears of all experts of a block, held in one 3-D parameter ``(experts, out, in)``."""
        axes = _with_hidden(role, axes)
        self.linears.append(
            Linear(
                name=name,
                parameter=name,
                role=role,
                block=block,
                out_features=shape[0],
                in_features=shape[1],
                experts=experts,
                pieces=pieces,
                out_axis=axes[0],
                in_axis=axes[1],
            )
        )

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        block: int | None = None,
        axis: Axis = "none",
        inner_axis: Axis = "none",
    ) -> None:
        """Add a tensor that is never quantized."""
        self.fixed.append(FixedTensor(name=name, shape=shape, block=block, axis=axis, inner_axis=inner_axis))

    def norm(
        self, name: str, width: int, *, block: int | None = None, bias: bool = False, axis: Axis = "hidden"
    ) -> None:
        """Add a normalization's weight, and its bias where it has one; of the residual stream if not said."""
        self.tensor(f"{name}.weight", (width,), block=block, axis=axis)
        if bias:
            self.tensor(f"{name}.bias", (width,), block=block, axis=axis)

    def cannot_cut(self, kind: str, reason: str) -> None:
        """Say that a pruned model of this architecture cannot lack some of its ``kind``."""
        self.uncuttable.append(Uncuttable.model_validate({"kind": kind, "reason": reason}))

    def cannot_cut_heads(self, family: str) -> None:
        """Say so for a family whose width of a head is derived from its configuration."""
        self.cannot_cut(
            "kv_heads",
            f"{family} derives the width of a head as hidden size / heads, so heads cannot be left out",
        )
        self.cannot_cut(
            "hidden",
            f"{family} derives the width of a head as hidden size / heads, so fewer hidden channels would narrow heads",
        )


@dataclass(frozen=True)
class Architecture:
    """A registered family.

    Attributes:
        family: its name; the name of its file.
        model_types: values of ``model_type`` in ``config.json`` that it reads.
        architectures: classes with a language-model head that it reads.
        defaults: of transformers' configuration class, for keys that a file may leave out.
        read: from fields to geometry and layout.
        keys: where ``config.json`` has a pruned model's counts, if not under Llama's keys.
        layer_types: whether the family heeds ``layer_types``.
        heads_divide_hidden: whether its configuration refuses a hidden size that is no multiple of the heads.
        nested: key of the object that holds the language model's numbers, ``""`` for the file itself.
    """

    family: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    defaults: Mapping[str, Any]
    read: Callable[[ConfigFields], tuple[Geometry, Layout]]
    keys: Mapping[str, str] = field(default_factory=dict)
    layer_types: bool = False
    heads_divide_hidden: bool = False
    nested: str = ""

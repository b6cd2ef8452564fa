"""A pruned model's structure inside a loaded model: list of blocks, configuration, attributes of modules.

The tensors themselves are swapped by the assembler; this is everything else that the forward pass and the
cache read. Nothing is copied, and undoing puts back the very same objects.
"""

from __future__ import annotations

from typing import Any

import torch

from paretune.spaces.architectures import pruned_config
from paretune.spaces.configuration import PrunedShape
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_shape

_HIDDEN_SIZES = ("hidden_size", "hidden_dim", "embedding_dim")
"""Attributes of modules of ``transformers`` and ``torch`` that hold the width of the residual stream."""


_ABSENT = object()


class Patches:
    """A log of ``setattr`` calls that can be undone."""

    def __init__(self) -> None:
        self._log: list[tuple[Any, str, Any]] = []

    def set(self, target: Any, name: str, value: Any) -> None:
        """Set ``target.name`` and remember what it was."""
        self._log.append((target, name, getattr(target, name, _ABSENT)))
        setattr(target, name, value)

    def undo(self) -> None:
        """Put everything back, last change first."""
        while self._log:
            target, name, value = self._log.pop()
            if value is _ABSENT:
                delattr(target, name)
            else:
                setattr(target, name, value)


class Structure:
    """Cuts a loaded model to a pruned model and back.

    Args:
        model: in its dense state.
        spec: of the model.
    """

    def __init__(self, model: Any, spec: ModelSpec) -> None:
        self._spec = spec
        self._path, _, self._attribute = spec.block_path.rpartition(".")
        self._parent = model.get_submodule(self._path)
        self._blocks = getattr(self._parent, self._attribute)
        self._modules = {x.name: _module(model, x) for x in spec.linears}
        self._config = model.config.to_dict()
        text = model.config.get_text_config()
        found = [getattr(module, "config", None) for module in model.modules()]
        # Modules may hold copies; a vision tower has a configuration of another class.
        self._configs = list({id(c): c for c in [text, *found] if type(c) is type(text)}.values())
        self._patches = Patches()
        self.pruned = PrunedShape()

    def apply(self, pruned: PrunedShape) -> None:
        """Give the model the structure of ``pruned``; the whole model if it is whole."""
        if pruned == self.pruned:
            return
        self._patches.undo()
        self.pruned = PrunedShape()
        if not pruned.whole:
            self._cut_configuration(pruned)
            self._cut_modules(pruned)
            if pruned.blocks is not None:
                self._cut_blocks(pruned.blocks)
        self.pruned = pruned

    def _cut_configuration(self, pruned: PrunedShape) -> None:
        """The same changes that the exported ``config.json`` has, on every configuration the modules read."""
        changed = pruned_config(self._config, self._spec, pruned)
        for before, after in _changed_objects(self._config, changed):
            keys = [key for key, value in after.items() if key not in before or before[key] != value]
            for config in self._configs:
                for key in keys:
                    self._patches.set(config, key, after[key])

    def _cut_modules(self, pruned: PrunedShape) -> None:
        for linear in self._spec.linears:
            shape = kept_shape(self._spec, linear, pruned)
            if shape != (linear.out_features, linear.in_features):
                for name, value in _module_sizes(linear, shape).items():
                    if hasattr(self._modules[linear.name], name):
                        self._patches.set(self._modules[linear.name], name, value)
        if pruned.hidden is not None:
            self._cut_hidden(pruned.hidden)
        if pruned.kv_heads is not None:
            ratio = self._spec.heads // self._spec.kv_heads
            sizes = {"num_key_value_heads": pruned.kv_heads}
            sizes |= dict.fromkeys(("num_heads", "num_attention_heads"), pruned.kv_heads * ratio)
            for module in self._blocks.modules():
                for name, value in sizes.items():
                    if isinstance(getattr(module, name, None), int):
                        self._patches.set(module, name, value)

    def _cut_hidden(self, kept: int) -> None:
        """Routers and experts reshape by the width that they remember."""
        for module in self._parent.modules():
            for name in _HIDDEN_SIZES:
                if getattr(module, name, None) == self._spec.hidden_size:
                    self._patches.set(module, name, kept)

    def _cut_blocks(self, kept: tuple[int, ...]) -> None:
        self._patches.set(
            self._parent, self._attribute, torch.nn.ModuleList([self._blocks[block] for block in kept])
        )
        for index, block in enumerate(kept):
            for module in self._blocks[block].modules():
                if isinstance(getattr(module, "layer_idx", None), int):
                    self._patches.set(module, "layer_idx", index)


def _module(model: Any, linear: Linear) -> Any:
    """The module that owns a layer's parameter."""
    return model.get_submodule(linear.parameter.rpartition(".")[0])


def _module_sizes(linear: Linear, shape: tuple[int, int]) -> dict[str, int]:
    """Attributes of ``Linear``, of GPT-2's ``Conv1D`` and of the experts that hold a size."""
    rows, columns = shape
    if linear.role == "expert_down":
        return {"intermediate_dim": columns, "intermediate_size": columns}
    if linear.role.startswith("expert"):
        return {}
    return {"out_features": rows, "in_features": columns, "nf": rows, "nx": columns}


def _changed_objects(
    before: dict[str, Any], after: dict[str, Any]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The objects of a parsed configuration that differ: the file itself, or one nested in it."""
    nested = [
        (before[key], value)
        for key, value in after.items()
        if isinstance(value, dict) and isinstance(before.get(key), dict) and before[key] != value
    ]
    return nested or [(before, after)]

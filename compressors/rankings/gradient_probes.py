"""Hooks that remember what passes where a part could be gated, so that a backward pass gives the gates' derivatives."""

from __future__ import annotations

from typing import Any

import torch

from paretune.compressors.rankings.activation import readers
from paretune.compressors.rankings.ranking import channel_layers, head_layers
from paretune.spaces.model import Linear, ModelSpec


class GradientProbes:
    """Derivatives of a loss by gates, at one, of the dense model; none of its parameters is changed.

    Used as a context; run the model forth and back inside, read, then :meth:`forget`.

    Args:
        model: whole; its parameters may be frozen.
        spec: of the model.
    """

    def __init__(self, model: Any, spec: ModelSpec) -> None:
        self._model = model
        self._spec = spec
        self._inputs: dict[str, torch.Tensor] = {}
        self._blocks: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._expert_weights: dict[str, torch.nn.Parameter] = {}
        self._asked: list[torch.nn.Parameter] = []
        self._handles: list[Any] = []

    def __enter__(self) -> GradientProbes:
        embedding = self._model.get_submodule(self._spec.embedding.name)
        self._handles.append(embedding.register_forward_hook(lambda _, __, out: out.requires_grad_()))
        for linear in (*head_layers(self._spec), *channel_layers(self._spec)):
            if linear.experts > 1:
                self._ask(linear)
            else:
                self._watch(linear.name, linear.name)
        for name in readers(self._spec):
            experts = self._spec.linear(name).role.startswith("expert")
            self._watch(name, name.rpartition(".")[0] if experts else name)
        for block, module in enumerate(self._model.get_submodule(self._spec.block_path)):
            self._handles.append(module.register_forward_hook(self._block_hook(block), with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for parameter in self._asked:
            parameter.requires_grad_(False)
        self.forget()

    def columns(self, linear: Linear) -> torch.Tensor:
        """By gates of a layer's columns: ``(in_features,)`` or ``(experts, in_features)``, float32."""
        weight = self._expert_weights.get(linear.name)
        if weight is not None:
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            return (weight.detach() * gradient).to(torch.float32).sum(dim=1)
        return _gates(self._inputs[linear.name])

    def hidden(self) -> torch.Tensor:
        """By gates of hidden channels wherever a linear reads them: ``(hidden,)``, float32."""
        return torch.stack([_gates(self._inputs[name]) for name in readers(self._spec)]).sum(dim=0)

    def block(self, block: int) -> torch.Tensor:
        """By a gate of what a block adds to the residual stream: a float32 scalar."""
        before, after = self._blocks[block]
        gradient = torch.zeros_like(after) if after.grad is None else after.grad
        return ((after - before).detach() * gradient).to(torch.float32).sum()

    def forget(self) -> None:
        """Drop what one pass left."""
        self._inputs.clear()
        self._blocks.clear()
        for weight in self._expert_weights.values():
            weight.grad = None

    def _ask(self, linear: Linear) -> None:
        """Have the gradient of the weights of experts."""
        weight = self._model.get_parameter(linear.parameter)
        self._expert_weights[linear.name] = weight
        if not weight.requires_grad:
            self._asked.append(weight)
            weight.requires_grad_()

    def _watch(self, name: str, path: str) -> None:
        def note(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            inputs[0].retain_grad()
            self._inputs[name] = inputs[0]

        self._handles.append(self._model.get_submodule(path).register_forward_pre_hook(note))

    def _block_hook(self, block: int) -> Any:
        def note(_: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
            after = output[0] if isinstance(output, tuple) else output
            after.retain_grad()
            self._blocks[block] = (inputs[0] if inputs else options["hidden_states"], after)

        return note


def _gates(value: torch.Tensor) -> torch.Tensor:
    """Sum over tokens of value times gradient, ``(features,)``."""
    if value.grad is None:
        return torch.zeros(value.shape[-1], device=value.device)
    product = (value.detach() * value.grad).to(torch.float32)
    return product.reshape(-1, value.shape[-1]).sum(dim=0)

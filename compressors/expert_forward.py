"""The forward pass of a mixture's experts, written out, so that what enters the second projection can be rounded.

``transformers`` (5.17) computes experts inside one module, by one of several implementations, and no module of its
own sees the product of gate and up. This pass does what ``grouped_mm_experts_forward`` of ``integrations/moe.py``
does: rows in the order of their experts, one product an expert, a sum over the experts of a token at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from paretune.spaces.errors import ConfigurationError

_ABSENT = object()
_PLAIN = {"has_gate": True, "has_bias": False, "is_transposed": False, "is_concatenated": True}
"""What ``use_experts_implementation`` notes on a module whose parameters are those that this pass knows."""


class RoundedDown:
    """Has an experts module round the input of its second projection, until :meth:`remove`.

    Args:
        module: the experts, with ``gate_up_proj``, ``down_proj`` and ``act_fn``.
        round_input: of the rows that enter ``down_proj``, ``(rows, features)``.

    Raises:
        ConfigurationError: experts with biases, without a gate, or with parameters in another order.
    """

    def __init__(self, module: Any, round_input: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for name, plain in _PLAIN.items():
            if getattr(module, name, plain) != plain:
                raise ConfigurationError(
                    f"rounded inputs of {type(module).__name__}",
                    f"{name} is {getattr(module, name)}, and only gated experts without biases are known here",
                    "Leave the activation of expert_down out",
                )
        self._module, self._before = module, module.__dict__.get("forward", _ABSENT)
        module.forward = partial(experts_forward, module, round_input)

    def remove(self) -> None:
        """Put the module's own forward pass back."""
        if self._before is _ABSENT:
            del self._module.forward
        else:
            self._module.forward = self._before


def experts_forward(
    module: Any,
    round_input: Callable[[torch.Tensor], torch.Tensor],
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """What the experts make of every token, ``(tokens, hidden)``; arguments are named as ``transformers`` names them.

    Args:
        module: the experts.
        round_input: of the rows that enter ``down_proj``, all experts' at once, ``(tokens * chosen, features)``.
        hidden_states: ``(tokens, hidden)``.
        top_k_index: int64 ``(tokens, chosen)``, the experts of a token.
        top_k_weights: ``(tokens, chosen)``, their shares.
    """
    chosen = top_k_index.reshape(-1)
    order = chosen.argsort(stable=True)
    counts = torch.bincount(chosen, minlength=len(module.gate_up_proj)).tolist()
    rows = hidden_states[order // top_k_index.shape[-1]]
    gate, up = _products(rows, module.gate_up_proj, counts).chunk(2, dim=-1)
    inner = round_input(module.act_fn(gate) * up)
    weighted = _products(inner, module.down_proj, counts) * top_k_weights.reshape(-1)[order, None]
    places = weighted[order.argsort()].view(*top_k_index.shape, -1)
    return places.sum(dim=1).to(hidden_states.dtype)


def _products(rows: torch.Tensor, weights: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Rows, ``counts`` of them an expert, by the transpose of their expert's matrix."""
    parts = zip(torch.split(rows, list(counts)), weights, strict=True)
    return torch.cat([torch.nn.functional.linear(part, weight) for part, weight in parts])

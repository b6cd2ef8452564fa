"""Rounding of a linear's input while scoring, by a hook: dynamic int8, by token or by tensor."""

from __future__ import annotations

from typing import Any

import torch

from compressors.rounding import fake_int8
from spaces.activation_format import ActivationFormat
from spaces.errors import ConfigurationError
from spaces.model import Linear, ModelSpec


class InputRounding:
    """Hooks on the sites of a loaded model.

    Args:
        model: in its dense state.
        spec: of the model.
    """

    def __init__(self, model: Any, spec: ModelSpec) -> None:
        self._modules = {
            linear.name: model.get_submodule(linear.name) for linear in spec.linears if _hookable(linear)
        }
        self._active: dict[str, tuple[ActivationFormat, Any]] = {}

    def apply(self, formats: dict[str, ActivationFormat]) -> None:
        """Round the inputs of these sites and of no other.

        Raises:
            ConfigurationError: a site whose input is no activation of its own, or a static scale.
        """
        for site, wanted in formats.items():
            self._check(site, wanted)
        for site in [site for site, (found, _) in self._active.items() if formats.get(site) != found]:
            self._active.pop(site)[1].remove()
        for site, wanted in formats.items():
            if site not in self._active:
                handle = self._modules[site].register_forward_pre_hook(_hook(wanted))
                self._active[site] = (wanted, handle)

    def _check(self, site: str, wanted: ActivationFormat) -> None:
        if site not in self._modules:
            raise ConfigurationError(
                f"activation format {wanted.name} at {site}",
                "only a linear of its own has an input that can be rounded here",
                "Leave the activation of embeddings and experts out",
            )
        if not wanted.dynamic or wanted.number_type != "int":
            raise ConfigurationError(
                f"activation format {wanted.name} at {site}",
                "only dynamic integer scales are computed here",
                "Use a dynamic format",
            )


def _hookable(linear: Linear) -> bool:
    return linear.role != "embedding" and not linear.role.startswith("expert")


def _hook(wanted: ActivationFormat) -> Any:
    def round_input(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (fake_int8(inputs[0], torch.float32, wanted.strategy == "tensor"), *inputs[1:])

    return round_input

"""Rounding of a linear's input while scoring, by a hook; static scales come from the calibration text.

What the hooks round to is in :mod:`paretune.compressors.rounding`. The input of an experts' first projection is that
of their module; the input of the second arises inside it (:mod:`paretune.compressors.expert_forward`). A static scale
of experts is one number a layer, of the largest input of any expert: engines multiply all experts by one kernel, and
vLLM 0.26 takes the largest of what is stored (``process_fp8_input_tensor_strategy_moe`` in its ``fp8_utils.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from paretune.compressors.expert_forward import RoundedDown
from paretune.compressors.pruned_sizes import kept_columns, of_expert, touched
from paretune.compressors.rounding import calibrated_factor, fake_input
from paretune.compressors.statistics import LayerStatistics, Statistics
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.configuration import WHOLE, PrunedShape
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_shape

_Rounding = Callable[[torch.Tensor], torch.Tensor]


class InputRounding:
    """Hooks on the layers of a loaded model.

    Args:
        model: in its dense state.
        spec: of the model.
        statistics: of the calibration text.
        scale_dtype: dtype that static scales are stored in.
    """

    def __init__(
        self,
        model: Any,
        spec: ModelSpec,
        statistics: Statistics,
        scale_dtype: torch.dtype = torch.float32,
    ) -> None:
        self._spec = spec
        self._statistics = statistics
        self._scale_dtype = scale_dtype
        self._modules = {
            linear.name: model.get_submodule(_module(linear)) for linear in spec.linears if _hookable(linear)
        }
        self._active: dict[str, tuple[tuple[ActivationFormat, PrunedShape], Any]] = {}

    def apply(self, formats: dict[str, ActivationFormat], pruned: PrunedShape = WHOLE) -> None:
        """Round the inputs of these layers and of no other.

        Args:
            formats: by layer.
            pruned: whose kept channels the static scales are of.

        Raises:
            ConfigurationError: an embedding, whose input is no activation, or a layer without what a static scale
            needs. FormatError: groups that do not divide the layer's features.
        """
        wanted = {
            layer: (found, touched(self._linear(layer, found), pruned)) for layer, found in formats.items()
        }
        stay = {layer for layer, (key, _) in self._active.items() if wanted.get(layer) == key}
        new = {layer: self._rounding(layer, *key) for layer, key in wanted.items() if layer not in stay}
        for layer in self._active.keys() - stay:
            self._active.pop(layer)[1].remove()
        for layer, rounding in new.items():
            self._active[layer] = (wanted[layer], self._installed(layer, rounding))

    def _linear(self, layer: str, wanted: ActivationFormat) -> Linear:
        if layer not in self._modules:
            raise ConfigurationError(
                f"activation format {wanted.name} at {layer}",
                "the input of an embedding is token numbers, which cannot be rounded",
                "Leave the activation of embeddings out",
            )
        return self._spec.linear(layer)

    def _rounding(self, layer: str, wanted: ActivationFormat, pruned: PrunedShape) -> _Rounding:
        linear, factor = self._spec.linear(layer), None
        wanted.scales(kept_shape(self._spec, linear, pruned)[1])
        if wanted.calibrated:
            factor = input_factor(self._spec, self._statistics, linear, wanted, pruned, self._scale_dtype)
            factor = factor.to(next(self._modules[layer].parameters()).device)
        return partial(fake_input, wanted=wanted, factor=factor)

    def _installed(self, layer: str, rounding: _Rounding) -> Any:
        """What takes the rounding away again, by ``remove()``."""
        if self._spec.linear(layer).role == "expert_down":
            return RoundedDown(self._modules[layer], rounding)

        def round_input(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (rounding(inputs[0]), *inputs[1:])

        return self._modules[layer].register_forward_pre_hook(round_input)


def input_factor(
    spec: ModelSpec,
    statistics: Statistics,
    linear: Linear,
    wanted: ActivationFormat,
    pruned: PrunedShape,
    scale_dtype: torch.dtype,
) -> torch.Tensor:
    """What calibration gives a layer's input, a float32 scalar (:mod:`paretune.compressors.rounding`).

    Args:
        spec: of the model.
        statistics: of the calibration text, which saw the dense model.
        linear: the layer; of experts, the largest of all counts.
        wanted: a calibrated format.
        pruned: only channels that it keeps count.
        scale_dtype: dtype that static scales are stored in.

    Raises:
        ConfigurationError: the layer was not observed, or its input was not finite.
    """
    found = statistics.layer(linear.name)
    if found is None or found.peak is None:
        raise _uncalibrated(linear, wanted, "calibration did not observe the largest magnitude of its input")
    peak = reached = _kept_peak(found, linear, kept_columns(spec, statistics, linear, pruned))
    if wanted.number_type == "int" and found.usual_peak is not None:
        # Steps of integers are alike over the whole range, so what is rarely reached is clipped.
        usual = found.usual_peak[0]
        peak = torch.minimum(peak, usual) if usual > 0 else peak
    factor = calibrated_factor(wanted, peak, scale_dtype)
    if not (reached.isfinite() and factor.isfinite()):
        reason = f"its input reached {float(reached)} in calibration, which no scale of {scale_dtype} spans"
        raise _uncalibrated(linear, wanted, reason)
    return factor


def _kept_peak(found: LayerStatistics, linear: Linear, kept: torch.Tensor | None) -> torch.Tensor:
    """The largest magnitude in the kept channels, which experts choose each for themselves; one number."""
    parts = (found.expert(index).columns(of_expert(kept, index)).peak for index in range(linear.experts))
    return torch.stack([part.amax() for part in parts if part is not None]).amax()


def _uncalibrated(linear: Linear, wanted: ActivationFormat, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"activation format {wanted.name} at {linear.name}", reason, "Use a dynamic format"
    )


def _hookable(linear: Linear) -> bool:
    return linear.role != "embedding"


def _module(linear: Linear) -> str:
    """Path of the module that the layer's input enters; both projections of experts are parameters of one."""
    return linear.name.rpartition(".")[0] if linear.role.startswith("expert") else linear.name

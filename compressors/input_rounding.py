"""Rounding of a linear's input while scoring, by a hook; static scales come from the calibration text.

What the hooks round to is in :mod:`compressors.rounding`.
"""

from __future__ import annotations

from typing import Any

import torch

from compressors.rounding import calibrated_factor, fake_input
from compressors.statistics import Statistics
from compressors.students import kept_columns, touched
from spaces.activation_format import ActivationFormat
from spaces.configuration import WHOLE, Student
from spaces.errors import ConfigurationError
from spaces.model import Linear, ModelSpec
from spaces.size import kept_shape


class InputRounding:
    """Hooks on the sites of a loaded model.

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
            linear.name: model.get_submodule(linear.name) for linear in spec.linears if _hookable(linear)
        }
        self._active: dict[str, tuple[tuple[ActivationFormat, Student], Any]] = {}

    def apply(self, formats: dict[str, ActivationFormat], student: Student = WHOLE) -> None:
        """Round the inputs of these sites and of no other.

        Args:
            formats: by site.
            student: whose kept channels the static scales are of.

        Raises:
            ConfigurationError: a site whose input is no activation of its own, or without what a static scale needs.
            FormatError: groups that do not divide the site's features.
        """
        wanted = {
            site: (found, touched(self._linear(site, found), student)) for site, found in formats.items()
        }
        stay = {site for site, (key, _) in self._active.items() if wanted.get(site) == key}
        new = {site: self._hook(site, *key) for site, key in wanted.items() if site not in stay}
        for site in self._active.keys() - stay:
            self._active.pop(site)[1].remove()
        for site, hook in new.items():
            self._active[site] = (wanted[site], self._modules[site].register_forward_pre_hook(hook))

    def _linear(self, site: str, wanted: ActivationFormat) -> Linear:
        if site not in self._modules:
            raise ConfigurationError(
                f"activation format {wanted.name} at {site}",
                "only a linear of its own has an input that can be rounded here",
                "Leave the activation of embeddings and experts out",
            )
        return self._spec.linear(site)

    def _hook(self, site: str, wanted: ActivationFormat, student: Student) -> Any:
        linear, factor = self._spec.linear(site), None
        wanted.scales(kept_shape(self._spec, linear, student)[1])
        if wanted.calibrated:
            factor = input_factor(self._spec, self._statistics, linear, wanted, student, self._scale_dtype)
            factor = factor.to(next(self._modules[site].parameters()).device)

        def round_input(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (fake_input(inputs[0], wanted, factor), *inputs[1:])

        return round_input


def input_factor(
    spec: ModelSpec,
    statistics: Statistics,
    linear: Linear,
    wanted: ActivationFormat,
    student: Student,
    scale_dtype: torch.dtype,
) -> torch.Tensor:
    """What calibration gives a site's input: :func:`compressors.rounding.calibrated_factor`, a float32 scalar.

    Args:
        spec: of the model.
        statistics: of the calibration text, which saw the dense model.
        linear: the site, none of experts.
        wanted: a calibrated format.
        student: only channels that it keeps count.
        scale_dtype: dtype that static scales are stored in.

    Raises:
        ConfigurationError: the site was not observed, or its input was not finite.
    """
    found = statistics.site(linear.name)
    kept = None if found is None else found.columns(kept_columns(spec, statistics, linear, student)).peak
    if kept is None:
        raise _uncalibrated(linear, wanted, "calibration did not observe the largest magnitude of its input")
    peak = reached = kept.amax()
    if wanted.number_type == "int" and found is not None and found.usual_peak is not None:
        # Steps of integers are alike over the whole range, so what is rarely reached is clipped.
        peak = torch.minimum(peak, found.usual_peak[0])
    factor = calibrated_factor(wanted, peak, scale_dtype)
    if not (reached.isfinite() and factor.isfinite()):
        reason = f"its input reached {float(reached)} in calibration, which no scale of {scale_dtype} spans"
        raise _uncalibrated(linear, wanted, reason)
    return factor


def _uncalibrated(linear: Linear, wanted: ActivationFormat, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"activation format {wanted.name} at {linear.name}", reason, "Use a dynamic format"
    )


def _hookable(linear: Linear) -> bool:
    return linear.role != "embedding" and not linear.role.startswith("expert")

"""Fake quantization of activations and of the key-value cache while scoring, in float32.

Inputs are rounded as compressed-tensors does, so that a candidate is its export: the scale of symmetric integers is
the largest magnitude over half of ``2^8 - 1`` steps, unless the format says 127. The cache is our own and uses the
whole positive range.
Sources of the floats: :mod:`paretune.compressors.float_rounding`; of NVFP4's two levels of scales: NVIDIA 2025,
"Pretraining large language models with NVFP4" (arXiv:2509.25149).
"""

from __future__ import annotations

import torch

from paretune.compressors.float_rounding import (
    LARGEST_E2M1,
    LARGEST_E4M3,
    power_of_two_scales,
    round_e2m1,
    round_e4m3,
)
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.errors import FormatError

_LARGEST = 127
_HALF_OF_STEPS = 127.5


def fake_int8(values: torch.Tensor, scale_dtype: torch.dtype) -> torch.Tensor:
    """``values`` rounded to int8 and back, in their own dtype: the cache.

    One scale for the last axis (a token and head of the cache): the largest magnitude / 127, rounded to
    ``scale_dtype`` before codes are chosen. A slice of zeros stays zero.
    """
    exact = values.to(torch.float32)
    scale = _not_zero((exact.abs().amax(dim=-1, keepdim=True) / _LARGEST).to(scale_dtype).to(torch.float32))
    return (exact / scale).round_().clamp_(-_LARGEST - 1, _LARGEST).mul_(scale).to(values.dtype)


def fake_input(
    values: torch.Tensor, wanted: ActivationFormat, factor: torch.Tensor | None = None
) -> torch.Tensor:
    """``values`` ``(..., features)`` rounded to ``wanted`` and back, in their own dtype.

    What shares a scale and is all zero stays zero; what holds a NaN becomes NaN, so that it is seen.

    Args:
        values: the input of a linear.
        wanted: its format.
        factor: :func:`calibrated_factor` of the layer, where the format is calibrated.

    Raises:
        FormatError: a group size that does not divide the features, or a calibrated format without its factor.
    """
    if wanted.calibrated and factor is None:
        raise FormatError(f"input format {wanted.name}", "is calibrated", "Give the factor of the layer")
    if not values.numel():
        return values
    exact = values.to(torch.float32)
    if wanted.group_size is not None:
        exact = exact.reshape(*values.shape[:-1], wanted.scales(values.shape[-1]), wanted.group_size)
    scale = _scale(exact, wanted, None if factor is None else factor.to(exact))
    rounded = _nearest(exact / scale, wanted) * scale
    return rounded.view(values.shape).to(values.dtype)


def calibrated_factor(wanted: ActivationFormat, peak: torch.Tensor, scale_dtype: torch.dtype) -> torch.Tensor:
    """The number that a calibrated format takes from the largest magnitude of calibration, a float32 scalar.

    Of a static scale: the scale, rounded to ``scale_dtype`` as it is stored. Of NVFP4: what E4M3 scales are divided
    by, so that the largest of them is 448 (``input_global_scale`` of compressed-tensors). An input that was zero
    throughout has the factor 1.

    Args:
        wanted: a calibrated format.
        peak: the largest magnitude, finite, one number.
        scale_dtype: dtype that static scales are stored in.
    """
    largest = peak.to(torch.float32).reshape(())
    if wanted.scale == "fp8":
        # Not finite where the peak is nothing or nearly nothing.
        factor = LARGEST_E4M3 * LARGEST_E2M1 / largest
        return torch.where(factor.isfinite(), factor, torch.ones_like(factor))
    return _not_zero((largest / _largest_number(wanted)).to(scale_dtype).to(torch.float32))


def _scale(exact: torch.Tensor, wanted: ActivationFormat, factor: torch.Tensor | None) -> torch.Tensor:
    """What ``exact``, grouped, is divided by; broadcasts over it."""
    if factor is not None and not wanted.dynamic:
        return factor
    size = exact.abs()
    largest = size.amax() if wanted.strategy == "tensor" else size.amax(dim=-1, keepdim=True)
    if wanted.scale == "exponent":
        return torch.where(largest.isnan(), largest, power_of_two_scales(largest, wanted.num_bits))
    scale = largest / _largest_number(wanted)
    if factor is not None:
        return _not_zero(round_e4m3(scale * factor).to(torch.float32)) / factor
    return _not_zero(scale)


def _largest_number(wanted: ActivationFormat) -> float:
    """What the largest magnitude is mapped to."""
    if wanted.number_type == "int":
        return _LARGEST if wanted.codes == "positive" else _HALF_OF_STEPS
    return LARGEST_E2M1 if wanted.num_bits == 4 else LARGEST_E4M3


def _nearest(scaled: torch.Tensor, wanted: ActivationFormat) -> torch.Tensor:
    if wanted.number_type == "int":
        return scaled.round_().clamp_(-_LARGEST - 1, _LARGEST)
    return round_e2m1(scaled) if wanted.num_bits == 4 else round_e4m3(scaled).to(torch.float32)


def _not_zero(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale)

"""Symmetric 8-bit integers of activations and of the key-value cache, as fake quantization while scoring."""

from __future__ import annotations

import torch

_LARGEST = 127


def fake_int8(values: torch.Tensor, scale_dtype: torch.dtype, whole: bool = False) -> torch.Tensor:
    """``values`` rounded to int8 and back, in their own dtype.

    One scale for the last axis (a token of an activation, a token and head of the cache), or one for all
    (``whole``): the largest magnitude / 127, rounded to ``scale_dtype`` before codes are chosen. A slice of
    zeros stays zero.
    """
    exact = values.to(torch.float32)
    largest = exact.abs().amax() if whole else exact.abs().amax(dim=-1, keepdim=True)
    scale = (largest / _LARGEST).to(scale_dtype).to(torch.float32)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (exact / scale).round_().clamp_(-_LARGEST - 1, _LARGEST).mul_(scale).to(values.dtype)

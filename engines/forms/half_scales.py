"""Scales in float16, which GPTQ and AWQ store whatever the model has."""

from __future__ import annotations

import torch

from paretune.compressors.quantizers import QuantizedWeight
from paretune.spaces.errors import EngineError


def half_scales(path: str, found: QuantizedWeight) -> torch.Tensor:
    """The scales as float16 ``(groups, rows)``, with the same numbers.

    A bfloat16 number has fewer digits than float16 and a wider range, so all but the smallest ones are the same in
    both. A group without a number other than zero may have any scale.

    Raises:
        EngineError: a scale that matters has no such number.
    """
    scales = found.scales.cpu()
    half = scales.to(torch.float16)
    lost = half.to(torch.float32) != scales.to(torch.float32)
    if bool(lost.any()):
        codes = found.codes.cpu().view(len(scales), -1, found.group_size)
        zeros = torch.zeros_like(codes[..., 0]) if found.zeros is None else found.zeros.cpu()
        used = (codes != zeros.unsqueeze(-1)).any(dim=-1)
        if bool((lost & used).any()):
            worst = float(scales[lost & used].abs().to(torch.float32).min())
            raise EngineError(
                f"scale {worst:.4g} of {path}",
                "has no equal among the numbers of float16, which the form stores",
                "Export it as compressed-tensors, or leave this linear at 16 bits",
            )
        half = half.nan_to_num(0.0, 0.0, 0.0)
    return half.t().contiguous()

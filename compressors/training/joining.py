"""Integer weights one below the other, as the bank keeps the experts of a layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from paretune.compressors.quantizers import QuantizedWeight


def join_rows(parts: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """One weight of all rows; the parts have one format with scales of every row."""
    zeros = [part.zeros for part in parts if part.zeros is not None]
    return QuantizedWeight(
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat(zeros) if zeros else None,
        parts[0].group_size,
    )

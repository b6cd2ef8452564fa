"""Weights in the order of their scales: every row of the result is what shares one scale."""

from __future__ import annotations

import torch


def to_blocks(weight: torch.Tensor, block_rows: int, group_size: int) -> torch.Tensor:
    """``(rows, columns)`` as ``(blocks, block_rows * group_size)``, blocks row by row; edges are filled with zeros.

    A view where rows stand alone.
    """
    rows, columns = weight.shape
    if block_rows == 1:
        return weight.reshape(-1, group_size)
    padded = torch.nn.functional.pad(weight, (0, -columns % group_size, 0, -rows % block_rows))
    tall, wide = padded.shape[0] // block_rows, padded.shape[1] // group_size
    parts = padded.view(tall, block_rows, wide, group_size).transpose(1, 2)
    return parts.reshape(tall * wide, block_rows * group_size)


def from_blocks(blocks: torch.Tensor, shape: torch.Size, block_rows: int, group_size: int) -> torch.Tensor:
    """What :func:`to_blocks` took apart."""
    rows, columns = shape
    if block_rows == 1:
        return blocks.view(rows, columns)
    tall, wide = -(-rows // block_rows), -(-columns // group_size)
    parts = blocks.view(tall, wide, block_rows, group_size).transpose(1, 2)
    return parts.reshape(tall * block_rows, wide * group_size)[:rows, :columns].contiguous()

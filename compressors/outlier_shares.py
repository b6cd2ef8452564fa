"""Which blocks can lose more: shares of zeros by outliers, a start for a search over sparsities.

OWL (Yin et al. 2023, arXiv:2310.05175): a block's weights times the norms of their inputs are outliers where they
exceed a multiple of the mean of their linear; a block that has more of them keeps more of its weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import ConfigurationError

if TYPE_CHECKING:
    from paretune.compressors.bank import Bank

THRESHOLD = 5.0
SPAN = 0.08
"""Both as in the paper."""


def outlier_shares(bank: Bank, threshold: float = THRESHOLD) -> dict[int, float]:
    """Share of outliers among the weights of every block."""
    found: dict[int, tuple[int, int]] = {}
    for linear in bank.spec.block_linears:
        seen = bank.statistics.layer(linear.name)
        if seen is None or linear.block is None:
            continue
        weight = bank.tensor(linear.name).abs()
        rows_first = weight.transpose(-1, -2) if linear.transposed else weight
        norms = seen.second_moment.sqrt().to(weight.device)
        scores = rows_first * (norms if norms.ndim == 1 else norms[:, None, :])
        outliers, count = found.get(linear.block, (0, 0))
        beyond = int((scores > threshold * scores.mean()).sum())
        found[linear.block] = outliers + beyond, count + scores.numel()
    return {block: outliers / count for block, (outliers, count) in found.items()}


def starting_shares(
    bank: Bank, sparsity: float, threshold: float = THRESHOLD, span: float = SPAN
) -> dict[int, float]:
    """Share of zeros of every block; their mean is ``sparsity``.

    Args:
        bank: with the statistics of a calibration text.
        sparsity: of the model, in (0, 1).
        threshold: multiple of the mean from which a score is an outlier.
        span: shares lie within ``2 * span`` of each other.

    Raises:
        ConfigurationError: shares that leave (0, 1).
    """
    outliers = outlier_shares(bank, threshold)
    values = torch.tensor(list(outliers.values()), dtype=torch.float64)
    width = values.max() - values.min()
    spread = (values - values.min()) / width * 2 * span if width > 0 else torch.zeros_like(values)
    shares = sparsity - (spread - spread.mean())
    if float(shares.min()) <= 0.0 or float(shares.max()) >= 1.0:
        raise ConfigurationError(
            f"a mean of {sparsity:g} with a span of {span:g}",
            "gives a block a share of zeros outside (0, 1)",
            "Use a smaller span, or a mean further from the ends",
        )
    return dict(zip(outliers, shares.tolist(), strict=True))


def starting_configuration(
    bank: Bank, sparsity: float, criterion: str = "wanda", threshold: float = THRESHOLD, span: float = SPAN
) -> CompressionConfig:
    """Unstructured zeros in every linear inside the blocks, by :func:`starting_shares`."""
    shares = starting_shares(bank, sparsity, threshold, span)
    return CompressionConfig(
        layers={
            linear.name: LayerChoice(sparsity=Sparsity(fraction=shares[linear.block], criterion=criterion))
            for linear in bank.spec.block_linears
            if linear.block is not None
        }
    )

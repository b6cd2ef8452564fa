"""Bits per byte: what a model pays for a text, whatever its tokens are.

Perplexity is per token, so models with other tokenizers cannot be compared by it; the bits that all tokens cost,
divided by the UTF-8 bytes that they stand for, can be (Gao et al., "The Pile", 2020, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from paretune.spaces.errors import TextError
from paretune.spaces.measurement import Measurement, Sample
from paretune.spaces.statistics import measure


def bits_per_byte(
    bits: Sequence[float], window_bytes: Sequence[int], sample: Sample, by: str = ""
) -> Measurement:
    """All bits over all bytes: the mean of the windows' rates, each weighted by its bytes.

    Args:
        bits: that each window cost.
        window_bytes: UTF-8 bytes that the predicted tokens of each window stand for.
        sample: the windows.
        by: what measured it.

    Raises:
        TextError: a window without bytes, or not as many windows.
    """
    if not len(bits) == len(window_bytes) == len(sample.windows) or min(window_bytes, default=0) <= 0:
        raise TextError(
            f"{len(bits)} windows with {len(window_bytes)} sizes from {min(window_bytes, default=0)} bytes on",
            "bits per byte need a number of bytes for every window",
            "Give a text with characters in it",
        )
    rates = [cost / size for cost, size in zip(bits, window_bytes, strict=True)]
    weighted = sample.model_copy(update={"weights": tuple(map(float, window_bytes))})
    return measure(rates, weighted, unit="bit", by=by)


def from_perplexity(
    perplexity: Measurement | None, predicted_tokens: int, window_bytes: Sequence[int]
) -> Measurement | None:
    """Of a model that predicted equally many tokens in each window.

    Args:
        perplexity: per token, with the losses of its windows.
        predicted_tokens: of each window.
        window_bytes: see :func:`bits_per_byte`.

    Returns:
        ``None`` where the windows are not known, or are others.
    """
    losses = None if perplexity is None else perplexity.per_window
    if perplexity is None or losses is None or perplexity.sample is None or len(losses) != len(window_bytes):
        return None
    bits = [loss / math.log(2) * predicted_tokens for loss in losses]
    return bits_per_byte(bits, window_bytes, perplexity.sample, perplexity.by)

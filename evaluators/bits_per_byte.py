"""Bits per byte: what a model pays for a text, whatever its tokens are.

Perplexity is per token, so models with other tokenizers cannot be compared by it; the bits that all tokens cost,
divided by the UTF-8 bytes that they stand for, can be (Gao et al., "The Pile", 2020, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from paretune.spaces.errors import TextError
from paretune.spaces.measurement import Measurement


def bits_per_byte(bits: Sequence[float], window_bytes: Sequence[int], by: str = "") -> Measurement:
    """All bits over all bytes.

    Args:
        bits: that each window cost.
        window_bytes: UTF-8 bytes that the predicted tokens of each window stand for.
        by: what measured it.

    Returns:
        With the error of a ratio, clustered by window. ``per_window`` are bits over the mean bytes of a window: their
        mean is the value, and two models that read the same windows can be paired.

    Raises:
        TextError: no bytes, or not as many windows.
    """
    total, count = sum(window_bytes), len(bits)
    if count != len(window_bytes) or total <= 0:
        raise TextError(
            f"{count} windows and {total} bytes of {len(window_bytes)}",
            "bits per byte need a number of bytes for every window",
            "Give a text with characters in it",
        )
    rate = math.fsum(bits) / total
    left = math.fsum((cost - rate * size) ** 2 for cost, size in zip(bits, window_bytes, strict=True))
    stderr = math.sqrt(left / (count - 1) / count) * count / total if count > 1 else None
    shares = tuple(cost * count / total for cost in bits)
    return Measurement(value=rate, unit="bit", stderr=stderr, n=count, by=by, per_window=shares)


def from_perplexity(
    perplexity: Measurement | None, predicted_tokens: int, window_bytes: Sequence[int]
) -> Measurement | None:
    """Of a model that predicted equally many tokens in each window.

    Args:
        perplexity: per token, with the values of its windows.
        predicted_tokens: of each window.
        window_bytes: see :func:`bits_per_byte`.

    Returns:
        ``None`` where the windows are not known, or are others.
    """
    windows = None if perplexity is None else perplexity.per_window
    if perplexity is None or not windows or len(windows) != len(window_bytes):
        return None
    return bits_per_byte(
        [math.log2(value) * predicted_tokens for value in windows], window_bytes, perplexity.by
    )

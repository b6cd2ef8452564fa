"""Two loops of scoring that PyTorch makes of a dozen passes over memory each, as one: codes to weights, logits to KL.

Written for Triton, which comes with PyTorch's builds for CUDA. Both give what the plain code gives where they are used:
weights bit for bit, divergences to the rounding of sums in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from paretune.compressors.packing import code_planes

_LOGITS_AT_ONCE = 4096
_WEIGHTS_AT_ONCE = 1024


def divergence(
    logits: torch.Tensor,
    dense: torch.Tensor,
    normaliser: torch.Tensor,
    top: torch.Tensor,
    targets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """KL(dense || candidate), whether the likeliest token is the same, and the loss, token by token.

    Args:
        logits: of the candidate, float32 ``(tokens, vocabulary)``.
        dense: log-probabilities, ``(tokens, vocabulary)`` in float32 or float16, which ``normaliser`` is taken from.
        normaliser: float32 ``(tokens,)``.
        top: the dense model's likeliest token, int64 ``(tokens,)``.
        targets: the token that follows, int64 ``(tokens,)``.

    Returns:
        float32, bool and float32, ``(tokens,)`` each. The KL is summed as ``q - p + p log(p / q)``, whose terms are not
        negative, so that no rounding of the normaliser is left in it.
    """
    tokens, vocabulary = logits.shape
    kl, loss = (torch.empty(tokens, device=logits.device) for _ in range(2))
    same = torch.empty(tokens, dtype=torch.bool, device=logits.device)
    _divergence[(tokens,)](
        logits, dense, normaliser, top, targets, kl, same, loss,
        logits.stride(0), dense.stride(0), VOCABULARY=vocabulary, SIZE=_LOGITS_AT_ONCE,
    )  # fmt: skip
    return kl, same, loss


@triton.jit
def _divergence(
    logits, dense, normaliser, top, targets, kl, same, loss, stride, dense_stride,
    VOCABULARY: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    row, teacher = logits + token * stride, dense + token * dense_stride
    columns = tl.arange(0, SIZE)
    peaks = tl.full((SIZE,), float("-inf"), tl.float32)
    sums = tl.zeros((SIZE,), tl.float32)
    for start in range(0, VOCABULARY, SIZE):
        values = tl.load(row + start + columns, mask=start + columns < VOCABULARY, other=float("-inf"))
        higher = tl.maximum(peaks, values)
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        sums = sums * tl.exp(peaks - safe) + tl.exp(values - safe)
        peaks = higher
    peak = tl.max(peaks, axis=0)
    total = tl.sum(tl.where(peaks == float("-inf"), 0.0, sums * tl.exp(peaks - peak)), axis=0)
    whole = peak + tl.log(total)
    shift = tl.load(normaliser + token)
    terms = tl.zeros((SIZE,), tl.float32)
    for start in range(0, VOCABULARY, SIZE):
        inside = start + columns < VOCABULARY
        values = tl.load(row + start + columns, mask=inside, other=0.0)
        wanted = tl.load(teacher + start + columns, mask=inside, other=0.0).to(tl.float32) - shift
        found = values - whole
        ratio, p = wanted - found, tl.exp(wanted)
        # Near 1 the first terms of the series: what cancels is not computed.
        near = p * ratio * ratio * (0.5 - ratio * (1 / 6 - ratio * (1 / 24 - ratio / 120)))
        term = tl.where(tl.abs(ratio) < 0.05, near, tl.exp(found) - p + p * ratio)
        terms += tl.where(inside, term, 0.0)
    tl.store(kl + token, tl.sum(terms, axis=0))
    tl.store(same + token, tl.load(row + tl.load(top + token)) >= peak)
    tl.store(loss + token, whole - tl.load(row + tl.load(targets + token)))


def expand(
    packed: torch.Tensor,
    num_bits: int,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    group_size: int,
    out: torch.Tensor,
) -> torch.Tensor:
    """``(code - zero) * scale`` of integer codes, computed in float32 and rounded to the dtype of ``out``.

    Args:
        packed: as :func:`paretune.compressors.packing.pack_codes` packs the codes of ``out``.
        num_bits: of a code.
        scales, zeros: ``(rows, groups)``.
        group_size: columns that share a scale; divides those of ``out``.
        out: contiguous ``(rows, columns)``, written and returned.
    """
    count, columns = out.numel(), out.shape[1]
    widths = code_planes(num_bits)
    starts = [sum(-(-count * width // 8) for width in widths[:index]) for index in range(3)]
    first, second, third = (*widths, 0, 0)[:3]
    _expand[(triton.cdiv(count, _WEIGHTS_AT_ONCE),)](
        packed, scales, scales if zeros is None else zeros, out, count, columns, group_size, scales.shape[1],
        starts[1], starts[2], BITS=num_bits, FIRST=first, SECOND=second, THIRD=third, SHIFTED=zeros is not None,
        SIZE=_WEIGHTS_AT_ONCE,
    )  # fmt: skip
    return out


@triton.jit
def _expand(
    packed, scales, zeros, out, count, columns, group_size, groups, second, third,
    BITS: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, THIRD: tl.constexpr, SHIFTED: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = place < count
    code = _plane(packed, place, inside, FIRST) << (BITS - FIRST)
    if SECOND:
        code |= _plane(packed + second, place, inside, SECOND) << (BITS - FIRST - SECOND)
    if THIRD:
        code |= _plane(packed + third, place, inside, THIRD)
    value = (code - (1 << (BITS - 1))).to(tl.float32)
    group = (place // columns) * groups + (place % columns) // group_size
    if SHIFTED:
        value -= tl.load(zeros + group, mask=inside, other=0).to(tl.float32)
    value *= tl.load(scales + group, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _plane(packed, place, inside, WIDTH: tl.constexpr):
    per_byte: tl.constexpr = 8 // WIDTH
    found = tl.load(packed + place // per_byte, mask=inside, other=0).to(tl.int32)
    return (found >> ((place % per_byte) * WIDTH).to(tl.int32)) & ((1 << WIDTH) - 1)

"""Weights that are rounded on the way forward and not on the way back.

Every number that a container stores (scale in its dtype, whole zero point, whole code) is already rounded in the
forward pass, so that what is trained is what is exported; gradients pass through the rounding (straight-through,
Bengio et al. 2013, arXiv:1308.3432). Two things can be learned:

* :class:`LearnedRounding`: an offset in [-1/2, 1/2] of a step before rounding and a factor for each end of a group's
  range (SignRound, Cheng et al. 2023, arXiv:2309.05516);
* :class:`LearnedWeight`: the weight itself and its steps (LSQ, Esser et al. 2019, arXiv:1902.08153).

An exact zero stays zero, so pruned weights stay pruned. Groups without a weight keep their scale.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from paretune.compressors.quantizers.affine import code_range, pack_result, round_scales
from paretune.compressors.quantizers.quantized_weight import QuantizedWeight
from paretune.spaces.errors import FormatError
from paretune.spaces.formats import WeightFormat

_LEAST_FACTOR = 0.5
_HALF_STEP = 0.5
_ALMOST_HALF = 0.499
_MARGIN = 0.25
"""Steps from its code at which a trained weight starts whose code is not the nearest. Just below a half, the first
steps would undo at random what a better method than rounding has chosen."""
_SMALLEST_LEARNED = 0.05
"""Of a scale's starting value: one that shrinks to nothing would lose its sign and its group."""


class _Exact(torch.autograd.Function):
    """The second tensor, with the gradient of the first."""

    @staticmethod
    def forward(context: Any, real: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
        del context, real
        return exact.view_as(exact)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        del context
        return gradients[0], None


class _ScaledGradient(torch.autograd.Function):
    """The tensor itself, with its gradient times a number."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, factor: float) -> torch.Tensor:
        context.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * context.factor, None


def straight_through(real: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """``exact``, to the last bit, with the gradient that ``real`` would have."""
    found: torch.Tensor = _Exact.apply(real, exact.detach())  # type: ignore[no-untyped-call]
    return found


def check_trainable(weight_format: WeightFormat) -> None:
    """Refuse formats whose codes are not whole numbers under scales of a row's groups.

    Raises:
        FormatError: names the format.
    """
    known = weight_format.number_type == "int" and weight_format.block_rows == 1
    if not known or weight_format.zero_point == "float" or weight_format.scale != "model":
        raise FormatError(
            f"format {weight_format.name}",
            "is not trained: only integers with scales of each row, and whole zero points, are",
            "Use an integer format, or a method that needs no training",
        )


class FakeQuantized(ABC):
    """One weight, rounded as its container stores it.

    Args:
        weight: float32 ``(rows, columns)``.
        weight_format: an integer format.
        start: scales and zeros that training starts from.
        scale_dtype: that scales are stored in.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        start: QuantizedWeight,
        scale_dtype: torch.dtype,
    ) -> None:
        check_trainable(weight_format)
        self._shape = weight.shape
        self._format = weight_format
        start = start.to(weight.device)
        self._dtype = scale_dtype
        self._low, self._high = code_range(weight_format.num_bits)
        self._groups = weight.detach().to(torch.float32).reshape(-1, start.group_size)
        self._first_scales = start.scales.detach().to(torch.float32).reshape(-1)
        self._first_zeros = None if start.zeros is None else start.zeros.to(torch.float32).reshape(-1)
        stays = self._groups != 0
        self._stays = None if bool(stays.all()) else stays

    @abstractmethod
    def _parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Codes before rounding and clipping, scales and zeros."""

    def _rounded(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        real, scales, zeros = self._parts()
        # Clipped before rounding: the same codes, and no gradient from where a code cannot move.
        clipped = real.clamp(self._low, self._high)
        return straight_through(clipped, clipped.round()), scales, zeros

    def dequantized(self) -> torch.Tensor:
        """What the model computes with, float32 ``(rows, columns)``; differentiable, and exactly the container's."""
        codes, scales, zeros = self._rounded()
        if zeros is not None:
            codes = codes - zeros.unsqueeze(-1)
        return (codes * scales.unsqueeze(-1)).view(self._shape)

    @torch.no_grad()
    def result(self) -> QuantizedWeight:
        """As it is now, for the container."""
        codes, scales, zeros = self._rounded()
        return pack_result(self._shape, codes.to(torch.int8), scales, zeros, self._dtype, self._format)

    def _stored(self, scales: torch.Tensor) -> torch.Tensor:
        return straight_through(scales, round_scales(scales.detach(), self._dtype))

    def _kept(self, values: torch.Tensor) -> torch.Tensor:
        return values if self._stays is None else values * self._stays


class LearnedRounding(FakeQuantized):
    """``round(w / s + offset + zero)`` with learned offsets and ends of the range.

    Attributes:
        offsets: in steps, ``(groups, group_size)``, in [-1/2, 1/2].
        factors: of the lower and upper end of each group's range (symmetric: of the larger), ``(ends, groups)``,
            between a half (or the start, if that is less) and one (or the start, if that is more).
    """

    def __init__(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        start: QuantizedWeight,
        scale_dtype: torch.dtype,
    ) -> None:
        super().__init__(weight, weight_format, start, scale_dtype)
        self._ends = self._range()
        factors = torch.where(self._ends == 0, torch.ones_like(self._ends), self._first_ends() / self._ends)
        self.factors = factors.clone().requires_grad_()
        self.offsets = torch.zeros_like(self._groups).requires_grad_()
        self._bounds = factors.clamp(max=_LEAST_FACTOR), factors.clamp(min=1.0)

    def _first_ends(self) -> torch.Tensor:
        """What the smallest and the largest code of the start stand for (symmetric: the larger of them)."""
        if self._first_zeros is None:
            return (self._first_scales * -self._low).unsqueeze(0)
        codes = self._first_zeros.new_tensor([self._low, self._high]).unsqueeze(-1)
        return (codes - self._first_zeros) * self._first_scales

    def _range(self) -> torch.Tensor:
        if self._first_zeros is None:
            # The side of the extra level is the start's: a negative scale keeps its sign.
            extreme = self._groups.abs().amax(dim=1)
            return torch.copysign(extreme, self._first_scales).unsqueeze(0)
        bottom, top = self._groups.amin(dim=1), self._groups.amax(dim=1)
        return torch.stack([bottom.clamp(max=0.0), top.clamp(min=0.0)])

    def _scales_of(self, ends: torch.Tensor) -> torch.Tensor:
        if len(ends) == 1:
            return ends[0] / -self._low
        return (ends[1] - ends[0]) / (self._high - self._low)

    def _parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        ends = self._ends * self.factors
        scales = self._stored(self._scales_of(ends))
        real = self._groups / scales.unsqueeze(-1) + self._kept(self.offsets)
        if len(ends) == 1:
            return real, scales, None
        zeros = (self._low - ends[0] / scales).clamp(self._low, self._high)
        zeros = straight_through(zeros, zeros.round())
        return real + zeros.unsqueeze(-1), scales, zeros

    @torch.no_grad()
    def descend(self, rate: float, learn_scales: bool) -> None:
        """One step against the signs of the gradients, which are cleared."""
        learned = [(self.offsets, -_HALF_STEP, _HALF_STEP)]
        if learn_scales:
            learned.append((self.factors, *self._bounds))  # type: ignore[arg-type]
        for values, least, most in learned:
            if values.grad is not None:
                values.sub_(values.grad.sign(), alpha=rate).clamp_(least, most)
        self.offsets.grad = self.factors.grad = None


class LearnedWeight(FakeQuantized):
    """LSQ: the weight and its steps are trained, zero points stay.

    Both are kept relative to the starting scale, so that one learning rate serves every layer. Weights begin as near
    to the dense ones as the codes of ``start`` allow: those of a better method than rounding are not lost.

    Attributes:
        weights: in starting steps, ``(groups, group_size)``.
        factors: of the starting scales, ``(groups,)``.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        start: QuantizedWeight,
        scale_dtype: torch.dtype,
    ) -> None:
        super().__init__(weight, weight_format, start, scale_dtype)
        self.weights = self._near(start).requires_grad_()
        self.factors = torch.ones_like(self._first_scales).requires_grad_()
        # Esser et al., section 2.2: balances a scale, which sums over its group, against weights. AdamW divides
        # by the size of the gradient, so there this decides only what its epsilon outweighs.
        self._balance = (start.group_size * max(1, self._high)) ** -0.5

    def _near(self, start: QuantizedWeight) -> torch.Tensor:
        """Weights in starting steps, moved only as far as the codes of the start ask for, ``(groups, group_size)``."""
        codes = start.codes.to(self._groups).reshape(self._groups.shape)
        if self._first_zeros is not None:
            codes = codes - self._first_zeros.unsqueeze(-1)
        distance = self._groups / self._first_scales.unsqueeze(-1) - codes
        near = distance.clamp(-_ALMOST_HALF, _ALMOST_HALF)
        near = torch.where(distance.abs() <= _HALF_STEP, near, distance.sign() * _MARGIN)
        return codes + near

    def _parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        factors: torch.Tensor = _ScaledGradient.apply(self.factors, self._balance)  # type: ignore[no-untyped-call]
        scales = self._stored(self._first_scales * factors.clamp(min=_SMALLEST_LEARNED))
        real = self._kept(self.weights) * (self._first_scales / scales).unsqueeze(-1)
        if self._first_zeros is None:
            return real, scales, None
        return real + self._first_zeros.unsqueeze(-1), scales, self._first_zeros

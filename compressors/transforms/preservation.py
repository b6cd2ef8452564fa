"""How far a transformed model may be from the original, and whether a stored one is that near.

In exact arithmetic a transform changes nothing, so what is left is rounding. How much one rounding of all weights
matters depends on the model, so it is measured on the model: the original with every weight moved at random by up to
half a step of the stored dtype. KL grows with the square of an error. A transformed checkpoint may err twice as much,
since a gain and the columns that make up for it are both rounded, so four times that KL is allowed; and 1e-6 for
float32 arithmetic, which is the most that a model differs from itself
(:class:`paretune.compressors.divergence.Teacher`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from paretune.compressors.divergence import Teacher
from paretune.spaces.errors import BrokenCandidateError, VerificationError

_SQUARED_ERRORS = 4.0
_ARITHMETIC = 1e-6
_WEIGHTS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Preservation:
    """A stored, transformed model beside its original.

    Attributes:
        kl: mean KL of the original to it, nats a token.
        top1_agreement: share of tokens whose most likely prediction is the original's.
        tolerance: that the KL must not exceed, nats a token.
        dtype: of the stored weights.
    """

    kl: float
    top1_agreement: float
    tolerance: float
    dtype: torch.dtype

    def require(self, name: str) -> None:
        """Refuse a model that is not what it was.

        Args:
            name: of the model, for the message.

        Raises:
            VerificationError: the KL is above the tolerance.
        """
        if self.kl <= self.tolerance:
            return
        stored = str(self.dtype).removeprefix("torch.")
        wider = "Store wider numbers: --dtype float32"
        broken = "Report it with the model's name: its structure is not what the transformation takes it for"
        raise VerificationError(
            f"KL of {name} to what was transformed: {self.kl:.2g} nat a token",
            f"at most {self.tolerance:.2g}, four times what one rounding of its weights to {stored} does",
            f"Nothing was written. {broken if self.dtype == torch.float32 else wider}",
        )


def tolerance(original: Any, teacher: Teacher, dtype: torch.dtype) -> float:
    """The KL that rounding explains, nats a token.

    Args:
        original: in float32; its weights are moved and stay moved.
        teacher: its predictions.
        dtype: that the transformed weights are stored in.
    """
    _move(original, torch.finfo(dtype).eps / 2)
    return _SQUARED_ERRORS * max(0.0, float(teacher.compare(original).kl.mean())) + _ARITHMETIC


def preservation(stored: Any, teacher: Teacher, allowed: float, dtype: torch.dtype) -> Preservation:
    """How near ``stored``, loaded again in float32, is to the original; see :class:`Preservation`.

    Raises:
        VerificationError: predictions that are not finite (float16 overflows).
    """
    try:
        found = teacher.compare(stored)
    except BrokenCandidateError as error:
        raise VerificationError(
            "the transformed model", error.rule, "Nothing was written. Store wider numbers: --dtype float32"
        ) from error
    return Preservation(float(found.kl.mean()), float(found.agreement.mean()), allowed, dtype)


@torch.no_grad()
def _move(model: Any, share: float) -> None:
    """Move every weight by up to ``share`` of itself, the same on every call; some at a time."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        for part in parameter.data.view(-1).split(_WEIGHTS_AT_ONCE):
            error = 2.0 * torch.rand(part.shape, generator=generator) - 1.0
            part.mul_(1.0 + share * error.to(part))

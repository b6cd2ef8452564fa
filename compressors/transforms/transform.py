"""The small interface behind which every function-preserving change of a dense model stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch

from paretune.compressors.transforms.structure import refuse
from paretune.compressors.windows import TokenWindows
from paretune.spaces.errors import TextError
from paretune.spaces.model import ModelSpec


@dataclass(frozen=True)
class Transformed:
    """What a transform did.

    Attributes:
        spec: of the model as it is now; differs from before only in ``tied``.
        strengths: what was chosen, by norm or layer; ``nan`` where the place was left as it was.
        left: places that were not changed, and why.
    """

    spec: ModelSpec
    strengths: dict[str, float] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


class Transform(ABC):
    """Changes the weights of a whole dense model so that its logits stay what they were."""

    name: str
    version: str = "1"
    needs_windows: bool = False

    def apply(self, model: Any, spec: ModelSpec, windows: TokenWindows | None = None) -> Transformed:
        """Change ``model`` in place; logits stay equal up to rounding of the parameters' dtype.

        Args:
            model: dense, as :func:`paretune.compressors.loading.load_dense` gives it; better in float32.
            spec: of the model.
            windows: calibration text, for transforms that measure.

        Raises:
            ModelError: the structure of the family does not allow it, or weights are not finite; the model is
                unchanged.
            TextError: windows are needed and absent.
        """
        self.require_possible(model, spec)
        for name, parameter in model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise refuse(self.name, spec, f"{name} is not finite", "Download or train it again")
        if windows is None and self.needs_windows:
            raise TextError(
                f"{self.name} of {spec.source}", "measures on a calibration text", "Give token windows"
            )
        if windows is not None:
            windows.check_vocabulary(spec.vocabulary)
        return self._apply(model, spec, windows)

    def require_possible(self, model: Any, spec: ModelSpec) -> None:
        """Refuse a model whose structure does not allow this transform.

        Raises:
            ModelError: with the reason.
        """
        reason = self.refusal(model, spec)
        if reason is not None:
            raise refuse(self.name, spec, reason, "Use another transform, or none, with this model")

    @abstractmethod
    def refusal(self, model: Any, spec: ModelSpec) -> str | None:
        """Why the structure of ``model`` does not allow this transform; ``None`` if it does."""

    @abstractmethod
    def _apply(self, model: Any, spec: ModelSpec, windows: TokenWindows | None) -> Transformed:
        """Change the model; its structure is known to allow it, its weights are finite."""

"""SmoothQuant: difficult channels of a linear's input become easier, the weights that read them harder.

Xiao et al. 2022 (arXiv:2211.10438): channel j of an input is divided by ``s_j = peak_j^a / weight_peak_j^(1 - a)`` and
the columns that read it are multiplied by it. The strength ``a`` is searched in every place by itself: the one whose
W8A8 product (weights int8 by row, inputs int8 by token) errs least on calibration tokens; a place that is best left
alone is left. Besides the norms, values (before the output projection) and FFN channels (before down) are smoothed,
where they pass linearly. Experts are judged on all tokens, not only on those routed to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from paretune.compressors.block_stream import BlockStream
from paretune.compressors.rounding import fake_int8
from paretune.compressors.transforms.passages import Place, norm_places, passage_places
from paretune.compressors.transforms.structure import refuse, unknown_structure
from paretune.compressors.transforms.transform import Transform, Transformed
from paretune.compressors.windows import TokenWindows
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.model import ModelSpec

STRENGTHS = tuple(step / 20 for step in range(21))
_TOKENS_AT_ONCE = 4096
_TOKENS_JUDGED = 512
_FURTHEST = 1e4
"""Channels are not moved by more than this factor, so that no gain overflows half precision."""


@dataclass(frozen=True)
class Smoothing(Transform):
    """SmoothQuant with a strength for every place.

    Attributes:
        strengths: that are tried, each from 0 (inputs keep what they have) to 1 (inputs become flat).
        passages: smooth values and FFN channels too.
    """

    strengths: tuple[float, ...] = STRENGTHS
    passages: bool = True

    name = "smoothquant"
    needs_windows = True

    def __post_init__(self) -> None:
        if not self.strengths or not all(0.0 <= strength <= 1.0 for strength in self.strengths):
            raise ConfigurationError(
                f"strengths {self.strengths}", "at least one, each from 0 to 1", "Use for example (0.5, 0.75)"
            )

    def refusal(self, model: Any, spec: ModelSpec) -> str | None:
        """Families whose norms are read by something unknown."""
        return unknown_structure(model, spec)

    def _apply(self, model: Any, spec: ModelSpec, windows: TokenWindows | None) -> Transformed:
        assert windows is not None  # noqa: S101 -- checked by `apply`
        chosen: dict[str, float] = {}
        left: dict[str, str] = {}
        stream = BlockStream(model, spec, windows, _TOKENS_AT_ONCE)
        for block in range(spec.blocks):
            places = norm_places(model, spec, block)
            if self.passages:
                passing, reason = passage_places(model, spec, block)
                places += passing
                left |= {} if reason is None else {f"{spec.block_path}.{block}": reason}
            seen = {place.observed: _Seen(windows.ids.numel()) for place in places}
            handles = [model.get_submodule(name).register_forward_pre_hook(x) for name, x in seen.items()]
            try:
                stream.advance()
            finally:
                for handle in handles:
                    handle.remove()
            for place in places:
                found = seen[place.observed]
                if not torch.isfinite(found.peak).all():
                    reason = f"the input of {place.observed} is not finite"
                    raise refuse(self.name, spec, reason, "Use float32, or a model that computes numbers")
                chosen[place.name] = _smooth(place, found, self.strengths)
        return Transformed(spec, chosen, left)


class _Seen:
    """A hook: peaks of an input over all tokens, and some tokens spread evenly.

    Attributes:
        peak: largest magnitudes ``(in,)``.
    """

    def __init__(self, tokens: int) -> None:
        self._step = max(1, tokens // _TOKENS_JUDGED)
        self._rows: list[torch.Tensor] = []
        self.peak = torch.zeros(1)

    def __call__(self, _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = inputs[0].reshape(-1, inputs[0].shape[-1]).to(torch.float32)
        self._rows.append(rows[:: self._step].clone())
        self.peak = torch.maximum(self.peak.to(rows.device), rows.abs().amax(dim=0))

    @property
    def rows(self) -> torch.Tensor:
        """Tokens ``(tokens, in)``."""
        return torch.cat(self._rows)


def smoothing_factors(peak: torch.Tensor, weight_peak: torch.Tensor, strength: float) -> torch.Tensor:
    """``peak^a / weight_peak^(1 - a)``, the formula of SmoothQuant; one for channels that are dead on either side."""
    factors = peak.pow(strength) / weight_peak.pow(1.0 - strength)
    dead = (peak == 0) | (weight_peak == 0)
    return torch.where(dead, torch.ones_like(factors), factors).clamp(1.0 / _FURTHEST, _FURTHEST)


@torch.inference_mode()
def _smooth(place: Place, seen: _Seen, strengths: tuple[float, ...]) -> float:
    """Smooth by the strength of least error and return it; ``nan`` if the place is best left as it is."""
    peak = place.gathered(seen.peak)
    weight_peak = place.gathered(
        torch.stack([w.abs().amax(dim=0) for w in place.weights]).amax(dim=0).float()
    )
    exact = [seen.rows @ weight.float().t() for weight in place.weights]
    least = _error(place, seen.rows, torch.ones_like(seen.peak), exact)
    best, chosen = float("nan"), None
    for strength in strengths:
        factors = smoothing_factors(peak, weight_peak, strength)
        error = _error(place, seen.rows, place.spread(factors), exact)
        if error < least:
            least, best, chosen = error, strength, factors
    if chosen is not None:
        place.multiply(1.0 / chosen.to(torch.float64))
    return best


def _error(place: Place, rows: torch.Tensor, factors: torch.Tensor, exact: list[torch.Tensor]) -> float:
    """Squared error of the W8A8 products, summed over all matrices that read the input."""
    inputs = fake_int8(rows / factors, torch.float32)
    total = 0.0
    for weight, wanted in zip(place.weights, exact, strict=True):
        found = inputs @ fake_int8(weight.float() * factors, torch.float32).t()
        total += float((found - wanted).square().sum(dtype=torch.float64))
    return total

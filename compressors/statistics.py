"""What a calibration text says: input moments of every layer, importance of what a pruned model may lack.

Gathered once, in one pass of the dense model block by block with hooks, and kept in the bank.

* Input moments, for Wanda (Sun et al. 2023, arXiv:2306.11695): mean square of each input channel.
* Input peaks, for static scales: the largest magnitude of each input channel, and the median over windows of the
  largest of a window (the rare largest of all makes every other input coarse).
* Blocks: block influence, 1 - mean cosine of a block's input and output (ShortGPT, Men et al. 2024,
  arXiv:2403.03853).
* Key-value heads: root mean square of what the group of query heads adds to the residual stream.
* FFN channels: mean absolute activation times the norm of the channel's column in the down projection
  (as in Minitron, Muralidharan et al. 2024, arXiv:2407.14679, and Wanda).
* Hidden channels: root mean square behind every norm, summed over the norms that a linear reads (Minitron sums the
  outputs of all norms; means of squares are what is kept here).

Experts are told apart where tokens reached them; an expert that no token reached takes the mean of its layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from paretune.compressors.block_stream import BlockStream
from paretune.compressors.observation import Observer
from paretune.compressors.weight_source import WeightSource
from paretune.compressors.windows import TokenWindows
from paretune.spaces.model import ModelSpec

_TOKENS_AT_ONCE = 4096
STATISTICS_VERSION = "5"
"""2: peaks; 3: usual peaks; 4: those of experts; 5: hidden channels."""
_LEAST_IMPORTANCE = 1e-4
"""Channels that never fired count a little, so that every weight has a code near it."""
_FIRST_READERS = ("q", "qkv", "gate", "gate_up", "expert_gate_up", "head")

Part = Literal["heads", "channels", "blocks", "width"]
"""What a pruned model may lack: key-value heads, FFN channels, blocks, hidden channels."""
Factors = dict[tuple[torch.device, bool], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class LayerStatistics:
    """Input of one layer.

    Attributes:
        second_moment: float32 mean of squares, ``(in_features,)`` or ``(experts, in_features)``.
        covariance: float32 ``E[x x^T]``, ``(in_features, in_features)`` or with experts in front; only for methods
            that need it.
        peak: float32 largest magnitude of each channel, shaped as ``second_moment``; ``None`` if not observed.
        gradient: mean size of the loss's derivative by each weight, ``(rows, in_features)`` or with experts in front;
            only for criteria that need it.
        usual_peak: float32 ``(1,)``, median over windows of the largest magnitude in a window, of experts the largest
            of any; ``None`` if not observed, and of one expert alone.
        factors: factorisations of the covariance, by place and by whether columns are ordered; whoever has the
            covariance adds what it makes, and all rows, formats and layers of this input share it.
    """

    second_moment: torch.Tensor
    covariance: torch.Tensor | None = None
    peak: torch.Tensor | None = None
    gradient: torch.Tensor | None = None
    usual_peak: torch.Tensor | None = None
    factors: Factors = field(default_factory=dict, repr=False, compare=False)

    def expert(self, index: int) -> LayerStatistics:
        """Of one expert; of the layer itself where there are none."""
        if self.second_moment.ndim == 1:
            return self
        covariance, peak, gradient = (
            _part(values, index) for values in (self.covariance, self.peak, self.gradient)
        )
        return LayerStatistics(self.second_moment[index], covariance, peak, gradient)

    def columns(self, kept: torch.Tensor | None) -> LayerStatistics:
        """For the kept columns only; of one expert, or of a layer without."""
        if kept is None:
            return self
        covariance = None if self.covariance is None else self.covariance[kept][:, kept]
        gradient = None if self.gradient is None else self.gradient[:, kept]
        peak = _part(self.peak, kept)
        return LayerStatistics(self.second_moment[kept], covariance, peak, gradient, self.usual_peak)

    def importances(self, weight: torch.Tensor) -> torch.Tensor:
        """How much the error of each weight counts: the mean square of its input channel over that of all channels.

        The diagonal of the layer's Hessian. Float32, shaped as ``weight`` (of one expert, or of a layer without);
        ones where nothing finite was observed.
        """
        moments = self.second_moment.to(weight.device, torch.float32)
        mean = moments.mean()
        seen = bool(torch.isfinite(mean)) and float(mean) > 0.0
        columns = (moments / mean).clamp_min(_LEAST_IMPORTANCE) if seen else torch.ones_like(moments)
        return columns.expand_as(weight).contiguous()

    def rows(self, kept: torch.Tensor) -> LayerStatistics:
        """For some output rows; of one expert, or of a layer without. Factorisations go with them."""
        return self if self.gradient is None else replace(self, gradient=self.gradient[kept])


def _part(values: torch.Tensor | None, index: int | torch.Tensor) -> torch.Tensor | None:
    return None if values is None else values[index]


@dataclass(frozen=True)
class Statistics:
    """Everything gathered, as flat tensors that safetensors can hold.

    Attributes:
        tensors: ``moment/LAYER``, ``peak/LAYER`` and ``usual/LAYER``; ``blocks`` ``(blocks,)``; ``heads/BLOCK``
            ``(kv_heads,)``; ``channels/BLOCK`` ``(channels,)`` or ``(experts, channels)``; ``width`` ``(hidden,)``;
            float32, larger is more important.
    """

    tensors: dict[str, torch.Tensor]

    def layer(self, name: str) -> LayerStatistics | None:
        """Of the layer ``name``; ``None`` for an embedding, whose input is no vector."""
        found = self.tensors.get(f"moment/{name}")
        peak, usual = self.tensors.get(f"peak/{name}"), self.tensors.get(f"usual/{name}")
        return None if found is None else LayerStatistics(found, peak=peak, usual_peak=usual)

    @property
    def block_order(self) -> tuple[int, ...]:
        """Blocks, least important first; equals by index, the later one first."""
        scores = self.importance("blocks").tolist()
        return tuple(sorted(range(len(scores)), key=lambda block: (scores[block], -block)))

    def importance(self, part: Part, block: int | None = None) -> torch.Tensor:
        """Scores of the ``heads`` or ``channels`` of a block, or of the model's ``blocks`` or ``width``."""
        return self.tensors[part if block is None else f"{part}/{block}"]


def gather(model: Any, spec: ModelSpec, windows: TokenWindows, source: WeightSource) -> Statistics:
    """One pass of the dense ``model`` over ``windows``, block by block.

    Args:
        model: in its dense state, whole or streamed.
        spec: of the model.
        windows: calibration text.
        source: the dense weights, for the norms of columns.
    """
    windows.check_vocabulary(spec.vocabulary)
    stream = BlockStream(model, spec, windows, _TOKENS_AT_ONCE)
    tensors: dict[str, torch.Tensor] = {}
    with Observer(model, spec, windows.ids.shape[1]) as observer:
        for block in range(spec.blocks):
            stream.advance()
            tensors |= _importances(spec, block, observer, source)
        stream.leave()
    tensors |= {f"moment/{name}": sums.mean() for name, sums in observer.moments.items()}
    tensors |= {f"peak/{name}": peaks.largest() for name, peaks in observer.peaks.items()}
    tensors |= {
        f"usual/{name}": torch.cat(found).median().reshape(1) for name, found in observer.window_peaks.items()
    }
    tensors["blocks"] = torch.stack([observer.cosines[block].mean() for block in range(spec.blocks)])
    tensors["blocks"] = 1.0 - tensors["blocks"].reshape(-1)
    tensors["width"] = _width(spec, tensors)
    return Statistics({name: t.to("cpu", torch.float32).contiguous() for name, t in tensors.items()})


def _importances(
    spec: ModelSpec, block: int, observer: Observer, source: WeightSource
) -> dict[str, torch.Tensor]:
    """Of a block's heads and channels. Its Gram matrices, larger than all else observed, are taken."""
    found = {}
    for linear in spec.of_role("o"):
        if linear.in_axis == "heads" and linear.block == block:
            weight = source.matrices(linear)[0]
            found[f"heads/{block}"] = _head_norms(weight, observer.grams[linear.name].take())
    for linear in spec.of_role("down", "expert_down"):
        if linear.in_axis == "ffn" and linear.block == block:
            norms = source.matrices(linear).norm(dim=1)
            scores = observer.sizes[linear.name].mean() * norms
            found[f"channels/{block}"] = scores if linear.experts > 1 else scores.reshape(-1)
    return found


def _width(spec: ModelSpec, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of hidden channels; one layer stands for those that read the same norm, up where nothing gates."""
    gated = {x.block for x in spec.of_role("gate", "gate_up", "expert_gate_up")}
    readers = [x for x in spec.linears if x.role in _FIRST_READERS]
    readers += [x for x in spec.of_role("up") if x.block not in gated]
    # Experts see their own tokens; the layer saw them all.
    moments = (tensors[f"moment/{x.name}"].view(-1, x.in_features).mean(dim=0) for x in readers)
    seen = [moment.sqrt() for moment in moments if len(moment) == spec.hidden_size]
    return torch.stack(seen).sum(dim=0)


def _head_norms(weight: torch.Tensor, grams: torch.Tensor) -> torch.Tensor:
    """Root mean square of ``W_g a_g`` for each group g, from the second moments of ``a_g``."""
    hidden, groups = weight.shape[0], grams.shape[0]
    parts = weight.view(hidden, groups, -1).transpose(0, 1)
    return torch.einsum("gik,gkl,gil->g", parts, grams.to(parts.dtype), parts).clamp_min(0.0).sqrt()

"""Hooks that sum what passes through a dense model: squares, products and cosines, no activations kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from paretune.spaces.model import Linear, ModelSpec

_TINY = 1e-12


def micro_batches(ids: torch.Tensor, tokens: int) -> Iterator[torch.Tensor]:
    """``ids`` ``(windows, tokens)`` in batches of at most ``tokens`` tokens, at least one window each."""
    step = max(1, tokens // ids.shape[1])
    for start in range(0, ids.shape[0], step):
        yield ids[start : start + step]


class RunningMean:
    """Mean over tokens, in float64; rows (experts) count their own tokens."""

    def __init__(self) -> None:
        self._sum: torch.Tensor | None = None
        self._count: torch.Tensor | None = None

    def add(self, total: torch.Tensor, count: int | torch.Tensor) -> None:
        """Add a sum over ``count`` tokens; a count may differ by row."""
        counts = torch.as_tensor(count, dtype=torch.float64, device=total.device)
        # In place: sums of covariances are the largest thing that a pass over the text holds.
        self._sum = total.to(torch.float64, copy=True) if self._sum is None else self._sum.add_(total)
        self._count = counts if self._count is None else self._count + counts

    def mean(self) -> torch.Tensor:
        """The mean; a row without tokens has the mean of all rows' tokens."""
        if self._sum is None or self._count is None:
            raise RuntimeError("nothing was observed")
        if self._count.ndim == 0:
            return (self._sum / self._count).to(torch.float32)
        counts = self._count.view(-1, *(1,) * (self._sum.ndim - 1))
        overall = self._sum.sum(dim=0, keepdim=True) / counts.sum().clamp_min(1.0)
        means = torch.where(counts > 0, self._sum / counts.clamp_min(1.0), overall)
        return means.to(torch.float32)

    def take(self) -> torch.Tensor:
        """The mean; what was added is forgotten."""
        found = self.mean()
        self._sum = self._count = None
        return found


class RunningPeak:
    """Largest magnitude of each channel over tokens; rows (experts) see their own tokens."""

    def __init__(self) -> None:
        self._peak: torch.Tensor | None = None

    def add(self, sizes: torch.Tensor) -> None:
        """Add the largest magnitudes of some tokens, ``(features,)`` or ``(experts, features)``; -1 for no token."""
        # A maximum of tensors keeps NaN, so that a broken channel is seen.
        self._peak = sizes if self._peak is None else torch.maximum(self._peak, sizes)

    def largest(self) -> torch.Tensor:
        """The peaks; a row without tokens has those of all rows' tokens."""
        if self._peak is None:
            raise RuntimeError("nothing was observed")
        peak = self._peak.to(torch.float32, copy=True)
        return torch.where(peak < 0, peak.amax(dim=0, keepdim=True), peak) if peak.ndim > 1 else peak


class Observer:
    """Sums over every token that passes while the context is open.

    Args:
        model: in its dense state.
        spec: of the model.
        window_tokens: length of a window; mixtures see the tokens of several in one row.

    Attributes:
        moments: squares of each input channel, by layer.
        peaks: largest absolute value of each input channel, by layer.
        window_peaks: largest absolute value in each window, by layer; of experts, in the input of any of them.
        sizes: absolute values of each input channel of down projections, by layer.
        grams: products of the inputs of an output projection within each key-value group, by layer.
        cosines: of input and output, by block.
    """

    def __init__(self, model: Any, spec: ModelSpec, window_tokens: int) -> None:
        self.model = model
        self.spec = spec
        self.window_tokens = window_tokens
        self.moments: dict[str, RunningMean] = {}
        self.peaks: dict[str, RunningPeak] = {}
        self.window_peaks: dict[str, list[torch.Tensor]] = {}
        self.sizes: dict[str, RunningMean] = {}
        self.grams: dict[str, RunningMean] = {}
        self.cosines = {block: RunningMean() for block in range(spec.blocks)}
        self._handles: list[Any] = []

    def __enter__(self) -> Observer:
        for linear in self.spec.linears:
            if linear.role == "embedding" or linear.role.startswith("expert"):
                continue
            self._watch_linear(linear)
        for linear in self.spec.of_role(*FIRST_OF_EXPERTS):
            self._watch_experts(linear)
        for block, module in enumerate(self.model.get_submodule(self.spec.block_path)):
            self._handles.append(module.register_forward_hook(self._block_hook(block), with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _watch_linear(self, linear: Linear) -> None:
        moments = self.moments[linear.name] = RunningMean()
        peaks = self.peaks[linear.name] = RunningPeak()
        windows = self.window_peaks.setdefault(linear.name, [])
        sizes = self.sizes.setdefault(linear.name, RunningMean()) if linear.in_axis == "ffn" else None
        grams = self.grams.setdefault(linear.name, RunningMean()) if linear.in_axis == "heads" else None
        groups = self.spec.kv_heads

        def observe(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1]).to(torch.float32)
            magnitudes = rows.abs()
            moments.add(rows.square().sum(dim=0), len(rows))
            peaks.add(magnitudes.amax(dim=0))
            windows.append(magnitudes.view(len(inputs[0]), -1).amax(dim=1))
            if sizes is not None:
                sizes.add(magnitudes.sum(dim=0), len(rows))
            if grams is not None:
                parts = rows.view(len(rows), groups, -1).transpose(0, 1)
                # One count a group, so that a mean is taken group by group.
                grams.add(parts.transpose(1, 2) @ parts, torch.full((groups,), len(rows)))

        module = self.model.get_submodule(linear.name)
        self._handles.append(module.register_forward_pre_hook(observe))

    def _watch_experts(self, linear: Linear) -> None:
        """Inputs of both projections of every expert; the inner one is computed again from the first."""
        path = linear.name.rpartition(".")[0]
        down = f"{path}.down_proj"
        outer, inner, sizes = (RunningMean() for _ in range(3))
        self.moments[linear.name], self.moments[down], self.sizes[down] = outer, inner, sizes
        outer_peaks = self.peaks[linear.name] = RunningPeak()
        inner_peaks = self.peaks[down] = RunningPeak()
        outer_windows, inner_windows = (self.window_peaks.setdefault(x, []) for x in (linear.name, down))

        def observe(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            hidden, chosen = routed(module, inputs)
            sums: dict[str, list[torch.Tensor]] = {"outer": [], "inner": [], "sizes": []}
            peaks: dict[str, list[torch.Tensor]] = {"outer": [], "inner": []}
            counts, largest = [], torch.zeros(len(hidden), device=hidden.device)
            for reached, rows, product in inputs_of_experts(module, hidden, chosen):
                sums["outer"].append(rows.to(torch.float32).square().sum(dim=0))
                sums["inner"].append(product.square().sum(dim=0))
                sums["sizes"].append(product.abs().sum(dim=0))
                peaks["outer"].append(_peak(rows))
                peaks["inner"].append(_peak(product))
                largest[reached] = torch.maximum(largest[reached], product.abs().amax(dim=1))
                counts.append(len(rows))
            for name, total in (("outer", outer), ("inner", inner), ("sizes", sizes)):
                total.add(torch.stack(sums[name]), torch.tensor(counts, device=hidden.device))
            outer_peaks.add(torch.stack(peaks["outer"]))
            inner_peaks.add(torch.stack(peaks["inner"]))
            outer_windows.append(self._by_window(hidden.to(torch.float32).abs().amax(dim=1)))
            inner_windows.append(self._by_window(largest))

        self._handles.append(self.model.get_submodule(path).register_forward_pre_hook(observe))

    def _by_window(self, sizes: torch.Tensor) -> torch.Tensor:
        """Largest magnitude of each window from those of its tokens, one window after the other."""
        return sizes.view(-1, self.window_tokens).amax(dim=1)

    def _block_hook(self, block: int) -> Any:
        def observe(_: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
            before = inputs[0] if inputs else options["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            cosine = torch.nn.functional.cosine_similarity(
                before.to(torch.float32), after.to(torch.float32), dim=-1, eps=_TINY
            )
            self.cosines[block].add(cosine.sum(), cosine.numel())

        return observe


FIRST_OF_EXPERTS = ("expert_gate_up", "expert_up")
"""Roles of an expert's first projection: gate and up in one, or up alone."""


def routed(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """What an experts module was given: hidden states ``(tokens, hidden)`` and the experts of each token.

    Llama 4 gives every expert every token, scaled by its share, one expert after the other; tokens that an expert does
    not take are zeros, and count as not given to it.
    """
    hidden = inputs[0].reshape(-1, inputs[0].shape[-1])
    if len(inputs) > 1:
        return hidden, inputs[1]
    experts = len(module.down_proj)
    owner = torch.arange(experts, device=hidden.device).repeat_interleave(len(hidden) // experts)
    return hidden, torch.where(hidden.abs().amax(dim=1) > 0, owner, -1)[:, None]


def inputs_of_experts(
    module: Any, hidden: torch.Tensor, chosen: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each expert: which tokens reached it, what entered its first projection, and in float32 its second.

    Args:
        module: the experts, with what ``use_experts_implementation`` of transformers notes on it.
        hidden: ``(tokens, hidden)``.
        chosen: the experts of each token, ``(tokens, chosen)``.
    """
    gated = getattr(module, "has_gate", True)
    name = "gate_up_proj" if gated else "up_proj"
    weights, biases = getattr(module, name), getattr(module, f"{name}_bias", None)
    # Llama 4's module says nothing of itself: its experts lie as (in, out).
    by_column = getattr(module, "is_transposed", not hasattr(module, "_apply_gate"))
    for expert, weight in enumerate(weights):
        reached = (chosen == expert).any(dim=-1)
        product = hidden[reached] @ (weight if by_column else weight.t())
        product = product if biases is None else product + biases[expert]
        yield reached, hidden[reached], _activated(module, product, gated).to(torch.float32)


def _activated(module: Any, product: torch.Tensor, gated: bool) -> torch.Tensor:
    """What an expert's activation makes of its first projection."""
    if not gated:
        found: torch.Tensor = module.act_fn(product)
    elif hasattr(module, "_apply_gate"):
        found = module._apply_gate(product)
    else:
        gate, up = product.chunk(2, dim=-1)
        found = module.act_fn(gate) * up
    return found


def _peak(rows: torch.Tensor) -> torch.Tensor:
    """Largest magnitudes of ``(tokens, features)``; -1 where there is no token."""
    if not len(rows):
        return torch.full((rows.shape[-1],), -1.0, device=rows.device)
    return rows.to(torch.float32).abs().amax(dim=0)

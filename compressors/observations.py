"""What the dense model shows on a text beyond plain statistics: covariances of inputs, sizes of gradients.

Each is gathered when a method or a criterion needs it, by the dense model (loaded anew where a
candidate has taken its place), and is an entry of the bank: ``covariance/LAYER``, ``gradient/LAYER``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from paretune.compressors.covariance import covariance_bytes, gather_covariances, keeper
from paretune.compressors.entries import Entry
from paretune.compressors.entry_store import EntryStore, index_bytes
from paretune.compressors.gradients import gather_gradients, gradient_bytes
from paretune.compressors.loading import load_dense
from paretune.compressors.statistics import Factors, LayerStatistics, Statistics
from paretune.compressors.streamed_model import StreamedModel
from paretune.compressors.weight_source import WeightSource
from paretune.compressors.windows import TokenWindows
from paretune.spaces.errors import RunError
from paretune.spaces.model import Linear, ModelSpec

_FILE_BYTES = 640
"""More than the header of a file with one tensor takes."""

Progress = Callable[[str, int, int], None]


class Observations:
    """Covariances and gradients of one bank.

    Args:
        store: of the bank's entries.
        model: as the bank was opened with; it may have become a candidate since. Streamed ones have no gradients.
        calibration: text.
        statistics: plain ones of the same text.
        source: the dense weights.
        checkpoint: folder to load the dense model from when ``model`` is a candidate.
    """

    def __init__(
        self,
        store: EntryStore,
        model: Any,
        calibration: TokenWindows,
        statistics: Statistics,
        source: WeightSource,
        checkpoint: Path | None = None,
    ) -> None:
        self._store = store
        self._spec = source.spec
        self._model = model
        self._calibration = calibration
        self._statistics = statistics
        self._source = source
        self._checkpoint = checkpoint
        self._last: tuple[str, torch.Tensor] | None = None
        self._factors: Factors = {}

    def gather_for(self, entries: Iterable[Entry], progress: Progress | None = None) -> None:
        """Whatever the methods and criteria of ``entries`` need and is not there yet."""
        wanted = list(entries)
        if any(entry.needs_covariance for entry in wanted):
            self.correlate(progress)
        if any(entry.needs_gradient for entry in wanted):
            self.differentiate(progress)

    def correlate(self, progress: Progress | None = None) -> None:
        """The input covariances of every linear inside the blocks, of the dense model; those that are there stay.

        Raises:
            RunError: the model is a candidate that has no checkpoint; the disk is full.
        """
        wanted, known = self._keepers(), self._correlated()
        if known == wanted:
            return
        model = self.dense_model("covariances")
        found = gather_covariances(model, self._spec, self._calibration, known)
        for done, (name, covariance) in enumerate(found, len(known)):
            if progress is not None:
                progress(f"correlating the inputs of {name}", done, len(wanted))
            self._store.write(_covariance(name), {"covariance": covariance})

    def differentiate(self, progress: Progress | None = None) -> None:
        """The sizes of the gradients of every linear inside the blocks.

        Raises:
            ModelError: the model is streamed.
            RunError: the model is a candidate that has no checkpoint.
        """
        wanted = [linear.name for linear in self._spec.block_linears]
        if any(_gradient(name) not in self._store for name in wanted):
            found = gather_gradients(self.dense_model("gradients"), self._spec, self._calibration)
            for done, (name, gradient) in enumerate(found):
                if progress is not None:
                    progress(f"differentiating by {name}", done, len(wanted))
                self._store.write(_gradient(name), {"gradient": gradient})

    def bytes_for(self, entries: Iterable[Entry]) -> int:
        """Upper bound of the bytes of what ``entries`` need and is not there yet."""
        wanted = list(entries)
        headers = len(self._spec.block_linears) * (_FILE_BYTES + index_bytes("x" * 200))
        total = 0
        if any(entry.needs_covariance for entry in wanted):
            size = covariance_bytes(self._spec, self._correlated())
            total += size + headers if size else 0
        if any(entry.needs_gradient for entry in wanted):
            missing = any(_gradient(linear.name) not in self._store for linear in self._spec.block_linears)
            total += gradient_bytes(self._spec) + headers if missing else 0
        return total

    def seen(self, entry: Entry) -> LayerStatistics | None:
        """What the method and the criterion of an entry see; ``None`` where plain statistics do.

        Raises:
            RunError: it was not gathered.
        """
        found = self._statistics.layer(entry.linear.name)
        if found is None or entry.linear.block is None:
            return None
        if not entry.needs_covariance and not entry.needs_gradient:
            return None
        if entry.needs_covariance:
            covariance = self.covariance(entry.linear)
            found = replace(found, covariance=covariance, factors=self._factors)
        if entry.needs_gradient:
            gradient = self._read(_gradient(entry.linear.name), entry.linear)["gradient"]
            found = replace(found, gradient=_of_every_expert(gradient))
        return found

    def covariance(self, linear: Linear) -> torch.Tensor:
        """``E[x x^T]`` of a linear's input, float32 ``(in, in)`` or with experts in front, on the CPU.

        Raises:
            RunError: it was not gathered.
        """
        name = _covariance(keeper(self._spec, linear).name)
        if self._last is None or self._last[0] != name:
            self._last, self._factors = (name, self._read(name, linear)["covariance"]), {}
        return self._last[1]

    def _keepers(self) -> set[str]:
        return {keeper(self._spec, linear).name for linear in self._spec.block_linears}

    def _correlated(self) -> Collection[str]:
        return {name for name in self._keepers() if _covariance(name) in self._store}

    def _read(self, name: str, linear: Linear) -> dict[str, torch.Tensor]:
        if name not in self._store:
            raise RunError(
                f"the bank of {self._spec.source}",
                f"has no {name.partition('/')[0]} of {linear.name}",
                "Name the method in the space, so that the bank gathers it while it is built",
            )
        return self._store.read(name)

    def dense_model(self, what: str) -> Any:
        """The model itself while it is dense or streamed, else one that is loaded anew; ``what`` is to be gathered.

        Raises:
            RunError: it is a candidate, and there is no checkpoint.
        """
        if isinstance(self._model, StreamedModel) or is_dense(self._model, self._source, self._spec):
            return self._model
        if self._checkpoint is None:
            raise RunError(
                what,
                "the model is a candidate by now, and there is no checkpoint to load the dense one from",
                "Ask before the first candidate is assembled, or apply the dense configuration",
            )
        first = next(self._model.parameters())
        return load_dense(self._checkpoint, self._spec, first.dtype, first.device)


def is_dense(model: Any, source: WeightSource, spec: ModelSpec) -> bool:
    """Whether a loaded model computes what it was loaded as: its tensors, no rounding of inputs or cache."""
    found = dict(model.named_parameters())
    if set(found) != set(spec.parameter_shapes) or any(
        parameter.data_ptr() != source.loaded(name).data_ptr() or parameter.shape != source.loaded(name).shape
        for name, parameter in found.items()
    ):
        return False
    changed = any(
        module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module)
        for module in model.modules()
    )
    return not changed and model.config._attn_implementation in ("sdpa", "eager")


def _of_every_expert(gradient: torch.Tensor) -> torch.Tensor:
    """An expert that no token reached has the mean of the others, as in the other statistics."""
    if gradient.ndim == 2:
        return gradient
    reached = gradient.flatten(1).any(dim=1)
    if bool(reached.all()) or not bool(reached.any()):
        return gradient
    mean = gradient[reached].to(torch.float32).mean(dim=0).to(gradient.dtype)
    return torch.where(reached.view(-1, 1, 1), gradient, mean)


def _covariance(keeper_name: str) -> str:
    return f"covariance/{keeper_name}"


def _gradient(layer: str) -> str:
    return f"gradient/{layer}"

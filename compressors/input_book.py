"""What methods know of a layer beyond plain statistics: covariances of its input, sizes of its weights' gradients.

Gathered when a method that needs them is named, and kept among the bank's entries.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from paretune.compressors.covariance import covariance_bytes, gather_covariances, keeper
from paretune.compressors.dense_state import dense_model
from paretune.compressors.entries import Entry
from paretune.compressors.entry_store import EntryStore, index_bytes
from paretune.compressors.gradients import gather_gradients, gradient_bytes
from paretune.compressors.statistics import Factors, LayerStatistics, Statistics
from paretune.compressors.weight_source import WeightSource
from paretune.compressors.windows import TokenWindows
from paretune.spaces.errors import RunError
from paretune.spaces.model import Linear, ModelSpec

_FILE_BYTES = 640
"""More than the header of a file with one tensor takes."""

Progress = Callable[[str, int, int], None]


class InputBook:
    """Covariances and gradients of one bank.

    Args:
        store: of the bank's entries.
        spec: of the model.
        model: dense; streamed ones have no gradients.
        calibration: text.
        statistics: plain ones of the same text.
        source: the dense weights.
        checkpoint: folder to load the dense model from when ``model`` is a candidate.
    """

    def __init__(
        self,
        store: EntryStore,
        spec: ModelSpec,
        model: Any,
        calibration: TokenWindows,
        statistics: Statistics,
        source: WeightSource,
        checkpoint: Path | None = None,
    ) -> None:
        self._store = store
        self._spec = spec
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
            RunError: they do not fit on the disk, or the model is a candidate that has no checkpoint.
        """
        wanted = {keeper(self._spec, linear).name for linear in self._spec.block_linears}
        known = {name for name in wanted if _covariance(name) in self._store}
        if known == wanted:
            return
        self._check_room(covariance_bytes(self._spec, known))
        model = self._dense("covariances")
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
            found = gather_gradients(self._dense("gradients"), self._spec, self._calibration)
            for done, (name, gradient) in enumerate(found):
                if progress is not None:
                    progress(f"differentiating by {name}", done, len(wanted))
                self._store.write(_gradient(name), {"gradient": gradient})

    def bytes_for(self, entries: Iterable[Entry]) -> int:
        """Upper bound of the bytes of what ``entries`` need."""
        wanted = list(entries)
        headers = len(self._spec.block_linears) * (_FILE_BYTES + index_bytes("x" * 200))
        total = 0
        if any(entry.needs_covariance for entry in wanted):
            total += covariance_bytes(self._spec) + headers
        if any(entry.needs_gradient for entry in wanted):
            total += gradient_bytes(self._spec) + headers
        return total

    def observed(self, entry: Entry) -> LayerStatistics | None:
        """What the method and the criterion of an entry see; ``None`` where plain statistics do.

        Raises:
            RunError: it was not gathered.
        """
        moments = self._statistics.layer(entry.linear.name)
        if moments is None or entry.linear.block is None:
            return None
        if not entry.needs_covariance and not entry.needs_gradient:
            return None
        found = moments
        if entry.needs_covariance:
            covariance = self.covariance(entry.linear)
            found = replace(found, covariance=covariance, factors=self._factors)
        if entry.needs_gradient:
            gradient = self._read(_gradient(entry.linear.name), entry.linear)["gradient"]
            found = replace(found, gradient=_of_every_expert(gradient))
        return found

    def _dense(self, what: str) -> Any:
        return dense_model(self._model, self._source, self._spec, self._checkpoint, what)

    def _check_room(self, size: int) -> None:
        free = shutil.disk_usage(self._store.folder).free
        if size > free:
            raise RunError(
                f"covariances of {self._spec.source}",
                f"take {size:,} B, and {free:,} B are free on the disk of the bank",
                "Name methods that need none (--method weighted --method hqq), or another folder",
            )

    def covariance(self, linear: Linear) -> torch.Tensor:
        """``E[x x^T]`` of a linear's input, float32 ``(in, in)`` or with experts in front, on the CPU.

        Raises:
            RunError: it was not gathered.
        """
        name = _covariance(keeper(self._spec, linear).name)
        if self._last is None or self._last[0] != name:
            self._last, self._factors = (name, self._read(name, linear)["covariance"]), {}
        return self._last[1]

    def _read(self, name: str, linear: Linear) -> dict[str, torch.Tensor]:
        if name not in self._store:
            raise RunError(
                f"the bank of {self._spec.source}",
                f"has no {name.partition('/')[0]} of {linear.name}",
                "Name the method in the space, so that the bank gathers it while it is built",
            )
        return self._store.read(name)


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

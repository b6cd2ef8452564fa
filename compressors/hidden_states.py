"""Hidden states of all micro-batches: in memory up to a budget, in memory-mapped files beyond it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from paretune.spaces.errors import RunError

BUDGET_BYTES = 4 * 2**30


class HiddenStates:
    """A list of tensors of which each may be replaced by one of the same shape and dtype.

    Args:
        budget_bytes: that may stay in memory.
        folder: of the files, which have no name and vanish with the process; the system's if left out.
    """

    def __init__(self, budget_bytes: int = BUDGET_BYTES, folder: Path | None = None) -> None:
        self._budget_bytes = budget_bytes
        self._folder = folder
        self._states: list[torch.Tensor] = []
        self._device: list[torch.device] = []
        self._mapped: set[int] = set()
        self.resident_bytes = 0
        """Bytes of what is kept in memory."""
        self.mapped_bytes = 0
        """Bytes of what is kept in files."""

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> torch.Tensor:
        """The tensor at a place, on its device; a copy if it is kept in a file."""
        found = self._states[place]
        return found.to(self._device[place], copy=True) if place in self._mapped else found

    def __setitem__(self, place: int, state: torch.Tensor) -> None:
        if place in self._mapped:
            self._states[place].copy_(state)
        else:
            self._states[place] = state

    def append(self, state: torch.Tensor) -> None:
        """Keep one more.

        Raises:
            RunError: the disk is full.
        """
        self._device.append(state.device)
        if self.resident_bytes + state.nbytes <= self._budget_bytes:
            self.resident_bytes += state.nbytes
            self._states.append(state)
            return
        self._mapped.add(len(self._states))
        self.mapped_bytes += state.nbytes
        self._states.append(self._in_file(state))

    def _in_file(self, state: torch.Tensor) -> torch.Tensor:
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix="hidden-states-") as file:
                # Written first, because a page of a mapped file that finds no room kills the process.
                for _ in range(0, state.nbytes, _ZEROS):
                    file.write(bytes(_ZEROS))
                file.flush()
                mapped = torch.from_file(file.name, shared=True, size=state.numel(), dtype=state.dtype)
        except OSError as error:
            raise RunError(
                f"hidden states of {state.nbytes} bytes",
                f"cannot be kept on disk ({error.strerror or error})",
                "Free space in the folder of temporary files, or use fewer calibration windows",
            ) from error
        return mapped.view(state.shape).copy_(state)


_ZEROS = 1 << 20
"""Bytes written at once."""

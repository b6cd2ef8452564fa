"""The model one block at a time: what enters the next block is kept for every window, nothing else.

Statistics that are too large to be held for the whole model at once (input covariances) are gathered so, and
a block can be changed before the next one sees its output.
"""

from __future__ import annotations

from typing import Any

import torch

from compressors.observation import micro_batches
from compressors.windows import TokenWindows
from spaces.model import ModelSpec


class _Reached(Exception):  # noqa: N818 -- no error: the first block was reached and the rest is not needed
    """Ends a forward pass."""


class BlockStream:
    """Hidden states on their way through the blocks.

    Args:
        model: as it shall be run.
        spec: of the model.
        windows: text, without padding, so that masks and positions depend on the shape of a batch alone.
        tokens_at_once: of a micro-batch.

    Attributes:
        block: the block that comes next.
    """

    def __init__(self, model: Any, spec: ModelSpec, windows: TokenWindows, tokens_at_once: int) -> None:
        self._blocks = list(model.get_submodule(spec.block_path))
        self.block = 0
        self._hidden: list[torch.Tensor] = []
        self._options: dict[tuple[int, ...], list[dict[str, Any]]] = {}
        for ids in micro_batches(windows.ids, tokens_at_once):
            self._enter(model, ids.to(model.device))

    @torch.inference_mode()
    def advance(self) -> None:
        """Run the next block on every micro-batch; hooks on its modules see all of them."""
        module = self._blocks[self.block]
        for place, hidden in enumerate(self._hidden):
            output = module(hidden, **self._options[tuple(hidden.shape[:2])][self.block])
            self._hidden[place] = output[0] if isinstance(output, tuple) else output
        self.block += 1

    @torch.inference_mode()
    def observe(self) -> None:
        """Run the next block for the sake of hooks on its modules, and stay before it."""
        module = self._blocks[self.block]
        for hidden in self._hidden:
            module(hidden, **self._options[tuple(hidden.shape[:2])][self.block])

    @property
    def hidden(self) -> list[torch.Tensor]:
        """What enters the next block, a micro-batch each, ``(windows, tokens, hidden)``; inference tensors."""
        return list(self._hidden)

    def options(self, windows: int, tokens: int) -> dict[str, Any]:
        """What the next block is called with beside hidden states, for micro-batches of this shape."""
        return dict(self._options[windows, tokens][self.block])

    @torch.inference_mode()
    def _enter(self, model: Any, ids: torch.Tensor) -> None:
        """Keep what enters the first block; for a new shape also the options that every block is called with."""
        known = tuple(ids.shape) in self._options
        seen: list[dict[str, Any]] = []

        def note(_: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            if not seen:
                self._hidden.append(inputs[0] if inputs else options["hidden_states"])
            seen.append({name: value for name, value in options.items() if name != "hidden_states"})
            if known:
                raise _Reached

        handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in self._blocks]
        try:
            model(input_ids=ids, use_cache=False)
        except _Reached:
            return
        finally:
            for handle in handles:
                handle.remove()
        self._options[tuple(ids.shape)] = seen

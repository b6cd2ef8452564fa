"""The model one block at a time: what enters the next block is kept for every window, nothing else.

Statistics that are too large to be held for the whole model at once (input covariances) are gathered so, and
a block can be changed before the next one sees its output. The model may be whole, or streamed: then a block has its
parameters only while it runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from paretune.compressors.hidden_states import HiddenStates
from paretune.compressors.observation import micro_batches
from paretune.compressors.streamed_model import resident_around, resident_block
from paretune.compressors.windows import TokenWindows
from paretune.spaces.model import ModelSpec


class _Reached(Exception):  # noqa: N818 -- no error: what was wanted was reached and the rest is not needed
    """Ends a forward pass."""


class BlockStream:
    """Hidden states on their way through the blocks.

    Args:
        model: as it shall be run; a :class:`paretune.compressors.streamed_model.StreamedModel` or a
            ``PreTrainedModel``.
        spec: of the model.
        windows: text, without padding, so that masks and positions depend on the shape of a batch alone.
        tokens_at_once: of a micro-batch.
        hidden: where hidden states are kept; in memory up to a budget if left out.

    Attributes:
        block: the block that comes next.
    """

    def __init__(
        self,
        model: Any,
        spec: ModelSpec,
        windows: TokenWindows,
        tokens_at_once: int,
        hidden: HiddenStates | None = None,
    ) -> None:
        self._model = model
        self._spec = spec
        self._list = model.get_submodule(spec.block_path)
        self._blocks = list(self._list)
        self._ids = list(micro_batches(windows.ids, tokens_at_once))
        self._hidden = HiddenStates() if hidden is None else hidden
        self._options: dict[tuple[int, ...], list[dict[str, Any]]] = {}
        self._rest: tuple[Any, ...] | None = None
        self.block = 0
        with resident_around(model):
            self._learn_output(self._ids[0].to(model.device))
            for ids in self._ids:
                self._enter(ids.to(model.device))

    @torch.inference_mode()
    def advance(self) -> None:
        """Run the next block on every micro-batch; hooks on its modules see all of them."""
        with resident_block(self._model, self.block):
            for place, hidden in enumerate(self._hidden):
                self._hidden[place] = _state(self._run(hidden))
        self.block += 1

    @torch.inference_mode()
    def observe(self) -> None:
        """Run the next block for the sake of hooks on its modules, and stay before it."""
        with resident_block(self._model, self.block):
            for hidden in self._hidden:
                self._run(hidden)

    @torch.inference_mode()
    def leave(self) -> None:
        """Run what follows the last block up to the input of the head, for the sake of hooks on it.

        The head itself is not run: logits are larger than anything else, and nobody looks at them here.
        """
        if self.block != len(self._blocks):
            raise RuntimeError(f"block {self.block} comes next, and what follows the last one was asked for")
        head = self._model.get_submodule(self._spec.head.name)
        handle = head.register_forward_pre_hook(_stop)
        try:
            with resident_around(self._model):
                for ids, hidden in zip(self._ids, self._hidden, strict=True):
                    self._pass(ids.to(self._model.device), lambda *_, after=hidden: after)
        finally:
            handle.remove()

    @property
    def hidden(self) -> list[torch.Tensor]:
        """What enters the next block, a micro-batch each, ``(windows, tokens, hidden)``; inference tensors."""
        return list(self._hidden)

    def options(self, windows: int, tokens: int) -> dict[str, Any]:
        """What the next block is called with beside hidden states, for micro-batches of this shape."""
        return dict(self._options[windows, tokens][self.block])

    def _run(self, hidden: torch.Tensor) -> Any:
        return self._blocks[self.block](hidden, **self._options[tuple(hidden.shape[:2])][self.block])

    @torch.inference_mode()
    def _learn_output(self, ids: torch.Tensor) -> None:
        """Whether blocks return hidden states alone, or a tuple: from the first one."""
        seen: list[tuple[torch.Tensor, dict[str, Any]]] = []

        def note(_: int, hidden: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
            seen.append((hidden, options))
            raise _Reached

        self._pass(ids, note)
        with resident_block(self._model, 0):
            output = self._blocks[0](seen[0][0], **seen[0][1])
        self._rest = output[1:] if isinstance(output, tuple) else None

    @torch.inference_mode()
    def _enter(self, ids: torch.Tensor) -> None:
        """Keep what enters the first block; for a new shape also the options that every block is called with."""
        known = tuple(ids.shape) in self._options
        seen: list[dict[str, Any]] = []

        def note(index: int, hidden: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
            if index == 0:
                self._hidden.append(hidden)
            seen.append(options)
            if known or index == len(self._blocks) - 1:
                raise _Reached
            return hidden

        self._pass(ids, note)
        self._options.setdefault(tuple(ids.shape), seen)

    def _pass(
        self, ids: torch.Tensor, step: Callable[[int, torch.Tensor, dict[str, Any]], torch.Tensor]
    ) -> None:
        """Run the model with ``step`` in place of its blocks, until someone says that it is reached."""

        def output(index: int, hidden: torch.Tensor, options: dict[str, Any]) -> Any:
            state = step(index, hidden, options)
            return state if self._rest is None else (state, *self._rest)

        with _replaced(self._list, output):
            try:
                self._model(input_ids=ids, use_cache=False)
            except _Reached:
                return
        raise RuntimeError(f"the decoder of {self._spec.source} did not run its blocks and its head in order")


class _Step(torch.nn.Module):
    """In a block's place: looks like it from outside, and does ``step``."""

    def __init__(self, block: Any, index: int, step: Callable[..., Any]) -> None:
        super().__init__()
        # Not as a child: it stays what it was.
        self.__dict__.update(block=block, index=index, step=step)
        self._names = list(inspect.signature(block.forward).parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        named = dict(zip(self._names, inputs, strict=False)) | options
        return self.step(self.index, named.pop(self._names[0]), named)


@contextmanager
def _replaced(blocks: Any, step: Callable[..., Any]) -> Iterator[None]:
    before = list(blocks)
    for index, block in enumerate(before):
        blocks[index] = _Step(block, index, step)
    try:
        yield
    finally:
        for index, block in enumerate(before):
            blocks[index] = block


def _stop(*_: Any) -> None:
    raise _Reached


def _state(output: Any) -> torch.Tensor:
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found

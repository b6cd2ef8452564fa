"""A model whose weights stay on disk: its modules, with the parameters of one block at a time.

The modules are those of ``transformers``, made without memory for parameters (the meta device); buffers, which are
computed and not stored, are real. A block's parameters are read when it is entered and dropped when it is left, so a
machine needs room for two blocks (one that works, one that is being read) and the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from paretune.compressors.loading import check_parameters, read_model_config, told_by_transformers
from paretune.compressors.weight_source import WeightSource
from paretune.spaces.architectures import check_weights
from paretune.spaces.architectures.description import model_class
from paretune.spaces.errors import ModelError
from paretune.spaces.model import ModelSpec


class StreamedModel:
    """Made by :func:`open_streamed`.

    Attributes:
        skeleton: the ``PreTrainedModel``; its parameters are on the meta device unless a context below is open.
        spec: of the model.
        source: of the weights.
        dtype: that parameters are given.
        device: where they go.
    """

    def __init__(
        self, skeleton: Any, spec: ModelSpec, source: WeightSource, dtype: torch.dtype, prefetch: bool
    ) -> None:
        self.skeleton = skeleton
        self.spec = spec
        self.source = source
        self.dtype = dtype
        self.device = source.device
        self._names: dict[int | None, list[str]] = {None: _around_blocks(spec)}
        for name in spec.parameter_shapes:
            block = _block_of(spec, name)
            if block is not None:
                self._names.setdefault(block, []).append(name)
        self._open: dict[int | None, int] = {}
        self._reader = ThreadPoolExecutor(1) if prefetch else None
        self._next: tuple[int, Future[dict[str, torch.Tensor]]] | None = None

    @property
    def config(self) -> Any:
        """Of the skeleton."""
        return self.skeleton.config

    def get_submodule(self, name: str) -> Any:
        """A module, whose parameters may be on the meta device."""
        return self.skeleton.get_submodule(name)

    def __call__(self, **inputs: Any) -> Any:
        """Run the skeleton; what is not resident must not be reached."""
        return self.skeleton(**inputs)

    @contextmanager
    def block(self, index: int) -> Iterator[Any]:
        """The block with its parameters; they are dropped at the end. May be entered while it is open.

        Raises:
            ModelError: the checkpoint has become unreadable.
        """
        with self._resident(index):
            yield self.skeleton.get_submodule(f"{self.spec.block_path}.{index}")

    @contextmanager
    def around_blocks(self) -> Iterator[None]:
        """Embedding, positions and final norm have their parameters; an untied head has not."""
        with self._resident(None):
            yield

    @property
    def resident_bytes(self) -> int:
        """Bytes of the parameters in memory, a block that is being read ahead included."""
        tensors = [p for p in self.skeleton.parameters() if not p.is_meta]
        if self._next is not None and self._next[1].done():
            tensors += self._next[1].result().values()
        return sum(tensor.nbytes for tensor in tensors)

    @contextmanager
    def _resident(self, part: int | None) -> Iterator[None]:
        depth = self._open.get(part, 0)
        empty = {} if depth else self._fill(part)
        self._open[part] = depth + 1
        try:
            yield
        finally:
            self._open[part] = depth
            for name, parameter in empty.items():
                self._set(name, parameter)

    def _fill(self, part: int | None) -> dict[str, Any]:
        """Give a part its parameters; returns those without memory that were in their place."""
        tensors = self._read_ahead(part) if part is not None else self._read(part)
        empty = {}
        for name, tensor in tensors.items():
            empty[name] = self.skeleton.get_parameter(name)
            self._set(name, torch.nn.Parameter(tensor, requires_grad=False))
        return empty

    def _read(self, part: int | None) -> dict[str, torch.Tensor]:
        # Whoever enters in inference mode may train the block later.
        with torch.inference_mode(mode=False):
            return {
                # A copy: a memory-mapped tensor would be read, misaligned, whenever it is used.
                name: self.source.tensor(name).to(self.device, self.dtype, copy=True)
                for name in self._names[part]
            }

    def _read_ahead(self, block: int) -> dict[str, torch.Tensor]:
        """Read a block, or take it from the reader, which then reads the one that follows."""
        ahead, self._next = self._next, None
        tensors = ahead[1].result() if ahead is not None and ahead[0] == block else None
        del ahead  # a block that nobody asked for is dropped before another is read
        if tensors is None:
            tensors = self._read(block)
        if self._reader is not None and block + 1 in self._names and not any(self._open.values()):
            self._next = (block + 1, self._reader.submit(self._read, block + 1))
        return tensors

    def _set(self, name: str, parameter: Any) -> None:
        path, _, attribute = name.rpartition(".")
        setattr(self.skeleton.get_submodule(path), attribute, parameter)


def open_streamed(
    folder: Path,
    spec: ModelSpec,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    prefetch: bool = False,
) -> StreamedModel:
    """The model of a checkpoint, without its weights.

    Args:
        folder: in Hugging Face format, with safetensors.
        spec: of the same model.
        dtype: of parameters, as in :func:`paretune.compressors.loading.load_dense`.
        device: where parameters go while they are resident.
        prefetch: read the next block while one works.

    Raises:
        ModelError: weights that are absent, cut short, those of another model, or stored in a form that cannot be
            read part by part.
    """
    from accelerate import init_empty_weights

    check_weights(folder, spec)
    source = WeightSource(folder, None, spec, device)
    for name in spec.parameter_shapes:
        if source.stored(name) is None:
            raise ModelError(
                f"tensor {name} of {folder}",
                "is not stored in a form that can be read part by part",
                "Load the whole model, and save it again with save_pretrained",
            )
    with told_by_transformers(folder), init_empty_weights(include_buffers=False):
        config, attention = read_model_config(folder)
        model = model_class(config)._from_config(config, dtype=dtype, attn_implementation=attention)
    check_parameters(model, folder, spec)
    model = model.eval().requires_grad_(False).to(dtype)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(source.device))
    model.config.use_cache = False
    return StreamedModel(model, spec, source, dtype, prefetch)


def resident_block(model: Any, index: int) -> Any:
    """A context in which a block has its parameters, whether ``model`` is whole or streamed."""
    return model.block(index) if isinstance(model, StreamedModel) else nullcontext()


def resident_around(model: Any) -> Any:
    """A context in which embedding and final norm have their parameters."""
    return model.around_blocks() if isinstance(model, StreamedModel) else nullcontext()


def _block_of(spec: ModelSpec, name: str) -> int | None:
    prefix = f"{spec.block_path}."
    return int(name.removeprefix(prefix).partition(".")[0]) if name.startswith(prefix) else None


def _around_blocks(spec: ModelSpec) -> list[str]:
    """Parameters beside the blocks in the decoder: no head of its own, no vision tower."""
    decoder = spec.block_path.rpartition(".")[0] + "."
    head = None if spec.tied else spec.head.parameter
    return [
        name
        for name in spec.parameter_shapes
        if name.startswith(decoder) and _block_of(spec, name) is None and name != head
    ]

"""The bank: every layer at every choice, made once, kept packed on disk, and reused.

Choices for the whole, unpruned model are made by :meth:`Bank.build`; pruned and cut ones when they are first
used. A bank belongs to one model, one calibration text and one dtype of scales, and says so when another
comes. Layout of the folder::

    bank.json                identity: hashes of model, calibration text and statistics; versions of methods
    statistics.safetensors   see compressors.statistics
    entries.jsonl            name, SHA-256 and bytes of every entry, in the order of making
    bank.lock                held by the process that is writing
    entries/SITE/CHOICE.safetensors
    entries/covariance/SITE.safetensors      only for methods that need it
    entries/gradient/SITE.safetensors        only for criteria that need it
    entries/scaled/BLOCK/CHOICE.safetensors  norm gains and biases, only for methods that scale whole blocks
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from paretune.compressors.bank_identity import BankIdentity, open_identity
from paretune.compressors.entries import (
    Entry,
    dense_matrix,
    expanded,
    make_tensors,
    pruned_matrix,
    read_quantized,
)
from paretune.compressors.entry_store import EntryStore, Held, index_bytes
from paretune.compressors.observations import Observations
from paretune.compressors.pruned_sizes import kept_indices, touched
from paretune.compressors.quantizers import QuantizedWeight
from paretune.compressors.scaled_block import scale_block
from paretune.compressors.statistics import LayerStatistics, Statistics
from paretune.compressors.streamed_model import StreamedModel, open_streamed
from paretune.compressors.weight_source import WeightSource
from paretune.compressors.windows import TokenWindows
from paretune.spaces.choice import UNTOUCHED, LayerChoice
from paretune.spaces.configuration import WHOLE, CompressionConfig, PrunedShape
from paretune.spaces.errors import RunError
from paretune.spaces.ggml_types import GGML_TYPES
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_linears, kept_shape
from paretune.spaces.space import SearchSpace

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done and how many there are."""


class Bank:
    """Compressed weights of one model. Made by :meth:`open`.

    Attributes:
        spec: of the model.
        statistics: of the calibration text.
        observations: what else is known of it and of other texts, gathered when it is needed.
        scale_dtype: dtype that scales are stored in.
        unscaled: places that a method which scales whole blocks had to leave as they are, and why; of blocks made here.
    """

    def __init__(
        self,
        folder: Path,
        source: WeightSource,
        identity: BankIdentity,
        statistics: Statistics,
        model: Any,
        calibration: TokenWindows,
        checkpoint: Path | None = None,
    ) -> None:
        self.folder = folder
        self.spec = source.spec
        self.identity = identity
        self.scale_dtype: torch.dtype = getattr(torch, identity.scale_dtype)
        self._source = source
        self._model = model
        self._store = EntryStore(folder)
        self.observations = Observations(self._store, model, calibration, statistics, source, checkpoint)
        self.statistics = statistics
        self.unscaled: dict[str, str] = {}
        self._packed: Held[dict[str, torch.Tensor]] = Held(0, _bytes_of)

    @classmethod
    def open(
        cls,
        folder: Path,
        source: Path | None,
        model: Any,
        spec: ModelSpec,
        model_hash: str,
        calibration: TokenWindows,
        scale_dtype: str | None = None,
    ) -> Bank:
        """Open the bank in ``folder``, or start one: gather the statistics and write the identity.

        Args:
            folder: of the bank; may be absent.
            source: folder of the checkpoint, read slab by slab; ``None`` reads the weights of ``model``.
            model: the dense model, unchanged; or a :class:`~paretune.compressors.streamed_model.StreamedModel`;
                ``None`` streams ``source`` on the CPU in float32.
            spec: of both.
            model_hash: :func:`paretune.compressors.loading.model_hash`.
            calibration: text of the statistics.
            scale_dtype: name of the dtype of scales; the model's if left out.

        Raises:
            RunError: the folder holds the bank of another model, text or dtype, or is damaged.
            ModelError: weights that shall be streamed and cannot be.
        """
        if model is None and source is not None:
            model = open_streamed(source, spec)
        streamed = isinstance(model, StreamedModel)
        weights = model.source if streamed else WeightSource(source, model, spec)
        wanted = BankIdentity.of(model_hash, calibration.digest, scale_dtype or spec.dtype)
        identity, statistics = open_identity(folder, wanted, model, calibration, weights)
        return cls(folder, weights, identity, statistics, model, calibration, source)

    @property
    def hash(self) -> str:
        """SHA-256 of the identity: same hash, same entries."""
        return hashlib.sha256(self.identity.to_json().encode("ascii")).hexdigest()

    @property
    def block_order(self) -> tuple[int, ...]:
        """Blocks, least important first."""
        return self.statistics.block_order

    # -- filling --------------------------------------------------------------------------------------

    def build(self, space: SearchSpace, progress: Progress | None = None) -> None:
        """Make every entry of the whole, unpruned model that the space offers and that is not there yet.

        Raises:
            ModelError: a weight that is not finite; names the layer.
            RunError: what is left to make does not fit on the disk.
        """
        offered = list(offered_entries(self.spec, space))
        planned = [entry for entry in offered if entry.pruned.whole and not entry.choice.sparsity]
        missing = [entry for entry in planned if entry.name not in self._store]
        needed = sum(entry.file_bytes() + index_bytes(entry.name) for entry in missing)
        self._check_room(needed + self.observations.bytes_for(offered))
        # For pruned and cut entries too: they are made later, when text is no longer read.
        self.observations.gather_for(offered, progress)
        self._fill(planned, progress)

    def build_for(self, config: CompressionConfig, progress: Progress | None = None) -> None:
        """Make every entry that one candidate needs and that is not there yet.

        Raises:
            ModelError: a weight that is not finite; names the layer.
            RunError: the disk is full.
        """
        needed = (
            Entry.of(self.spec, linear, config.choice(linear.name), config.pruned)
            for linear in kept_linears(self.spec, config)
        )
        self._fill([entry for entry in needed if entry.stored], progress)

    def _check_room(self, needed: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise RunError(
                f"the bank of {self.spec.source}",
                f"takes up to {needed:,} B more, and {free:,} B are free on its disk",
                "Allow fewer widths, or methods that need no covariances (--method weighted --method hqq), or name "
                "another folder for it",
            )

    def _fill(self, planned: Sequence[Entry], progress: Progress | None) -> None:
        missing = [entry for entry in planned if entry.name not in self._store]
        self.observations.gather_for(missing, progress)
        done = len(planned) - len(missing)
        for kind in _of_one_kind(missing):
            # A method that scales a block makes all of it with its first layer.
            together = [entry for entry in kind if entry.name not in self._store]
            done += len(kind) - len(together)
            if not together:
                continue
            if progress is not None:
                progress(together[0].linear.name, done, len(planned))
            self._make(together)
            done += len(together)
        if progress is not None and missing:
            progress("quantized", done, len(planned))

    def _make(self, entries: Sequence[Entry]) -> None:
        """Make entries that differ in their weight format alone."""
        if entries[0].scaled_name is not None:
            for entry in entries:
                self._make_block(entry)
            return
        seen = self.observations.seen(entries[0])
        made = make_tensors(entries, self._source, self.statistics, self.scale_dtype, seen)
        for entry, tensors in zip(entries, made, strict=True):
            self._store.write(entry.name, tensors)
            if self._packed.has_room(entry.file_bytes()):
                self._packed.get(entry.name, partial(self._moved, tensors))

    def _make_block(self, entry: Entry) -> None:
        """Make the entries of a whole block for a method that scales it."""
        block, weight_format, name = entry.linear.block, entry.choice.weight, entry.scaled_name
        if block is None or name is None or not entry.pruned.whole:
            raise TypeError(f"{entry.name} belongs to no whole block")
        layers = [x for x in self.spec.block_linears if x.block == block]
        entries = {x.name: Entry.of(self.spec, x, entry.choice, WHOLE) for x in layers}

        def seen(linear: Linear) -> LayerStatistics | None:
            return self.observations.seen(entries[linear.name])

        scaled = scale_block(self._source, self._model, block, weight_format, self.scale_dtype, seen)
        self.unscaled |= scaled.left
        made = {
            entries[x.name].name: make_tensors(
                [entries[x.name]], scaled, self.statistics, self.scale_dtype, scaled.seen(x, seen(x))
            )[0]
            for x in layers
        }
        with self._store.writing():
            # First what goes with every layer: a layer without it would be wrong, it without a layer is not used.
            self._store.write(name, scaled.fixed())
            for one, tensors in made.items():
                self._store.write(one, tensors)

    def _tensors(self, entry: Entry) -> dict[str, torch.Tensor]:
        """What is stored of an entry; another process may have made it since, or at the same time."""
        if entry.name not in self._store:
            self._make([entry])
        return self._store.read(entry.name)

    def hold(self, budget_bytes: int) -> None:
        """Keep entries packed where the model is, up to so many bytes: those that are made from now on, and those read.

        A candidate's weights are then expanded from there, and no file is read again.
        """
        self._packed = Held(budget_bytes, _bytes_of)

    def _on_device(self, entry: Entry) -> dict[str, torch.Tensor]:
        """Packed, so that little travels and codes are unpacked where they are used."""
        return self._packed.get(entry.name, lambda: self._moved(self._tensors(entry)))

    def _moved(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self._source.device) for name, tensor in tensors.items()}

    # -- reading --------------------------------------------------------------------------------------

    def quantized(
        self, layer: str, choice: LayerChoice, pruned: PrunedShape = WHOLE, expert: int = 0
    ) -> QuantizedWeight | None:
        """Codes, scales and zeros of one expert's matrix, output rows first; ``None`` for a dense choice."""
        entry = Entry.of(self.spec, self.spec.linear(layer), choice, pruned)
        if choice.weight.dense:
            return None
        rows = entry.shape[0] // entry.linear.experts
        return read_quantized(entry, self._tensors(entry)).rows(expert * rows, (expert + 1) * rows)

    def tensor(
        self,
        layer: str,
        choice: LayerChoice = UNTOUCHED,
        pruned: PrunedShape = WHOLE,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """The weight that a candidate computes with, made in float32, shaped as the pruned model's parameter.

        That is ``(rows, columns)``, ``(columns, rows)`` for GPT-2's ``Conv1D``, with experts in front.
        """
        linear = self.spec.linear(layer)
        entry = Entry.of(self.spec, linear, choice, pruned)
        if choice.weight.dense:
            matrix = dense_matrix(entry, self._source, self.statistics)
            if choice.sparsity is not None:
                matrix = pruned_matrix(entry, matrix, self._on_device(entry))
            matrix = matrix.to(dtype)
        else:
            matrix = expanded(entry, self._on_device(entry), dtype)
        return as_parameter(matrix, linear, kept_shape(self.spec, linear, pruned))

    def fixed(self, name: str, pruned: PrunedShape = WHOLE, choice: LayerChoice = UNTOUCHED) -> torch.Tensor:
        """A tensor that is never quantized, as stored, cut to the pruned model.

        Args:
            name: of the tensor.
            pruned: the cut.
            choice: of its block, where that is scaled as a whole; see :func:`paretune.spaces.methods.scaled_blocks`.
        """
        found = next(tensor for tensor in self.spec.fixed if tensor.name == name)
        if choice.method != "none" and found.block is not None:
            first = next(x for x in self.spec.block_linears if x.block == found.block)
            entry = Entry.of(self.spec, first, choice, WHOLE)
            self._tensors(entry)
            scaled = {} if entry.scaled_name is None else self._store.read(entry.scaled_name)
            if name in scaled:
                return scaled[name].to(self._source.device)
        value = self._source.tensor(name)
        for dimension, axis in enumerate((found.axis, found.inner_axis)):
            kept = kept_indices(self.spec, self.statistics, axis, found.block, pruned)
            if kept is not None:
                value = value.index_select(dimension, kept.to(value.device))
        return value


def _bytes_of(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def offered_entries(spec: ModelSpec, space: SearchSpace) -> Iterator[Entry]:
    """Every entry that a candidate of the space may need, once, layer by layer."""
    seen: set[str] = set()
    pruned_sizes = _cuts(space)
    for index in space.layer_parameters:
        parameter = space.parameters[index]
        for layer in parameter.group.layers if parameter.group is not None else ():
            linear = spec.linear(layer)
            for pruned in dict.fromkeys(touched(linear, pruned) for pruned in pruned_sizes):
                for choice in parameter.choices:
                    if isinstance(choice, LayerChoice):
                        entry = Entry.of(spec, linear, choice, pruned)
                        if entry.stored and entry.name not in seen and _fits(entry):
                            seen.add(entry.name)
                            yield entry


def _of_one_kind(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Entries in the order of their layers: together those of one layer whose method shares work between formats.

    The others come one by one, so that no more than one is held.
    """
    kinds: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        shares = entry.quantizer is not None and entry.quantizer.shares_formats
        own = "" if shares else entry.name
        kinds.setdefault((entry.linear.name, entry.choice.method, own), []).append(entry)
    yield from kinds.values()


def _cuts(space: SearchSpace) -> list[PrunedShape]:
    """Every combination of kept heads, FFN and hidden channels that the space offers."""
    counts = {
        parameter.kind: parameter.choices
        for parameter in space.parameters
        if parameter.kind in ("kv_heads", "ffn_channels", "hidden")
    }
    return [
        PrunedShape.model_validate({"kv_heads": heads, "ffn_channels": channels, "hidden": hidden})
        for heads in counts.get("kv_heads", (None,))
        for channels in counts.get("ffn_channels", (None,))
        for hidden in counts.get("hidden", (None,))
    ]


def _fits(entry: Entry) -> bool:
    """Whether the method takes the cut and the group size divides its columns; the space refuses what does not."""
    if entry.scaled_name is not None and not entry.pruned.whole:
        return False
    weight = entry.choice.weight
    size = GGML_TYPES[weight.ggml].block_weights if weight.ggml else weight.group_size
    return weight.dense or size is None or entry.shape[1] % size == 0


def as_parameter(matrix: torch.Tensor, linear: Linear, shape: tuple[int, int]) -> torch.Tensor:
    """A matrix with output rows first (experts one below the other) in the shape of the layer's parameter."""
    if linear.stacked:
        matrices = matrix.view(linear.experts, *shape)
        return matrices.transpose(1, 2).contiguous() if linear.transposed else matrices
    return matrix.t().contiguous() if linear.transposed else matrix

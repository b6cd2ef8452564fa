"""One entry of the bank: a layer at one choice in one cut, how it is made, packed and measured in bytes.

The order is fixed: cut, then prune, then quantize, so zeros are zeros of the code (every quantizer keeps an
exact zero exact). Work goes slab by slab of output rows, so that temporaries stay small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from typing import NamedTuple, Protocol

import torch

from paretune.compressors.packing import CodePacker, packed_code_bytes, unpack_codes
from paretune.compressors.pruned_sizes import kept_columns, kept_rows, of_expert, touched
from paretune.compressors.pruners import Pruner, find_pruner
from paretune.compressors.quantizers import QuantizedWeight, Quantizer, find_quantizer
from paretune.compressors.quantizers.affine import weights_at_once
from paretune.compressors.quantizers.ggml_blocks import GgmlWeight
from paretune.compressors.quantizers.numbers import fixed_levels
from paretune.compressors.quantizers.quantizer import finite_weight
from paretune.compressors.statistics import LayerStatistics, Statistics
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import PrunedShape
from paretune.spaces.formats import WeightFormat
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_shape

_MASK_SLAB_WEIGHTS = 1 << 16
_HEADER_BYTES = 640
"""More than the header of a safetensors file with three tensors takes."""


class RowSource(Protocol):
    """Where rows of weights come from: :class:`paretune.compressors.weight_source.WeightSource`, or a scaled block."""

    @property
    def device(self) -> torch.device:
        """Where the rows are."""

    def rows(self, linear: Linear, expert: int, start: int, stop: int) -> torch.Tensor:
        """Output rows ``start`` to ``stop`` of one expert's matrix, float32 ``(rows, in_features)``."""


class Slab(NamedTuple):
    """Some kept output rows of one expert: weights, pruned, and which of them stay (``None``: all)."""

    weight: torch.Tensor
    mask: torch.Tensor | None
    statistics: LayerStatistics | None


@dataclass(frozen=True)
class Entry:
    """What is kept for a layer under a choice, whatever its activation and the cuts that do not touch it.

    Attributes:
        spec: of the model.
        linear: the layer.
        choice: weight format, method and sparsity.
        pruned: the cut, reduced to what touches the layer.
    """

    spec: ModelSpec
    linear: Linear
    choice: LayerChoice
    pruned: PrunedShape

    @classmethod
    def of(cls, spec: ModelSpec, linear: Linear, choice: LayerChoice, pruned: PrunedShape) -> Entry:
        """The entry that a candidate needs."""
        return cls(spec, linear, choice.model_copy(update={"activation": None}), touched(linear, pruned))

    @cached_property
    def name(self) -> str:
        """``LAYER/CHOICE``, the key in the bank and its path on disk."""
        parts = [self.choice.weight.name]
        if not self.choice.weight.dense:
            parts.append(self.choice.method)
        if self.choice.sparsity is not None:
            parts.append(f"{self.choice.sparsity.name.replace(':', 'of')}-{self.choice.sparsity.criterion}")
        if not self.pruned.whole:
            parts.append(self.pruned.name)
        return f"{self.linear.name}/{'.'.join(parts)}"

    @property
    def quantizer(self) -> Quantizer | None:
        """Of the method; ``None`` for dense weights."""
        return None if self.choice.weight.dense else find_quantizer(self.choice.method)

    @property
    def pruner(self) -> Pruner | None:
        """Of the criterion; ``None`` where nothing is pruned."""
        sparsity = self.choice.sparsity
        return None if sparsity is None else find_pruner(sparsity.criterion)

    @property
    def needs_covariance(self) -> bool:
        """Whether its method or its criterion reads the covariance of the layer's input."""
        quantizer, pruner = self.quantizer, self.pruner
        return bool(quantizer and quantizer.needs_covariance) or bool(pruner and pruner.needs_covariance)

    @property
    def needs_gradient(self) -> bool:
        """Whether its criterion reads the gradients of the layer's weights."""
        return bool(self.pruner and self.pruner.needs_gradient)

    @property
    def updated(self) -> bool:
        """Whether weights that stay dense are not those of the checkpoint."""
        return self.choice.weight.dense and self.pruner is not None and self.pruner.updates

    @property
    def stored(self) -> bool:
        """Whether there is anything to store: a dense, unpruned weight is sliced from the checkpoint."""
        return not self.choice.weight.dense or self.choice.sparsity is not None

    @property
    def scaled_name(self) -> str | None:
        """Key of the fixed tensors that go with its block; ``None`` where the method changes this layer alone."""
        if self.quantizer is None or self.quantizer.closure != "block" or self.linear.block is None:
            return None
        return f"scaled/blocks.{self.linear.block}/{self.name.rpartition('/')[2]}"

    @cached_property
    def shape(self) -> tuple[int, int]:
        """``(experts * rows, columns)``."""
        rows, columns = kept_shape(self.spec, self.linear, self.pruned)
        return self.linear.experts * rows, columns

    def file_bytes(self) -> int:
        """Upper bound of the size of its file."""
        rows, columns = self.shape
        weight = self.choice.weight
        if weight.dense:
            values = rows * columns * self.spec.dtype_bytes if self.updated else 0
            return packed_code_bytes(rows * columns, 1) + values + _HEADER_BYTES
        if weight.number_type != "int":
            one = weight.stored_bytes((rows // self.linear.experts, columns), dtype_bytes=4)
            return self.linear.experts * one.total + _HEADER_BYTES
        zero_bytes = {"none": 0, "int": 1, "float": self.spec.dtype_bytes}[weight.zero_point]
        numbers = self.spec.dtype_bytes + zero_bytes
        return (
            packed_code_bytes(rows * columns, weight.num_bits)
            + rows * weight.groups(columns) * numbers
            + _HEADER_BYTES
        )


def slabs(
    entry: Entry,
    source: RowSource,
    statistics: Statistics,
    seen: LayerStatistics | None = None,
    whole: bool = False,
) -> Iterator[Slab]:
    """The kept weights of an entry, pruned, in order.

    Args:
        entry: what is made.
        source: of the weights.
        statistics: of the model.
        seen: of the layer's input, where a method needs more than ``statistics`` hold.
        whole: a matrix at a time, for formats and criteria by which rows share something.
    """
    found = seen or statistics.layer(entry.linear.name)
    linear = entry.linear
    rows = kept_rows(entry.spec, statistics, linear, entry.pruned)
    columns = kept_columns(entry.spec, statistics, linear, entry.pruned)
    wanted = _MASK_SLAB_WEIGHTS if entry.quantizer is None else entry.quantizer.slab_weights
    step = max(1, max(wanted, weights_at_once(source.device)) // linear.in_features)
    step = linear.out_features if whole else step
    for expert in range(linear.experts):
        kept, inner = of_expert(rows, expert), of_expert(columns, expert)
        here = None if found is None else found.expert(expert).columns(inner)
        for start in range(0, linear.out_features, step):
            stop = min(start + step, linear.out_features)
            weight = source.rows(linear, expert, start, stop)
            rows_here = torch.arange(start, stop)
            if kept is not None:
                rows_here = kept[(kept >= start) & (kept < stop)]
                weight = weight[rows_here.to(weight.device) - start]
            if inner is not None:
                weight = weight[:, inner.to(weight.device)].contiguous()
            if len(weight):
                yield _pruned(entry, weight, None if here is None else here.rows(rows_here))


def _pruned(entry: Entry, weight: torch.Tensor, seen: LayerStatistics | None) -> Slab:
    if entry.pruner is None or entry.choice.sparsity is None:
        return Slab(weight, None, seen)
    weight = finite_weight(weight, entry.linear.name)
    return Slab(*entry.pruner.prune(weight, entry.choice.sparsity, seen), seen)


def dense_matrix(entry: Entry, source: RowSource, statistics: Statistics) -> torch.Tensor:
    """Kept weights in float32 ``(experts * rows, columns)``, cut but not pruned."""
    whole = replace(entry, choice=entry.choice.model_copy(update={"sparsity": None}))
    return torch.cat([slab.weight for slab in slabs(whole, source, statistics)])


def code_shape(entry: Entry) -> tuple[int, int]:
    """Bits of a stored code, and codes of a row: weights, except that blocks of ggml are bytes."""
    weight, columns = entry.choice.weight, entry.shape[1]
    return (8, weight.row_bytes(columns)) if weight.ggml else (weight.num_bits, columns)


class _Parts:
    """What is written for one entry, gathered slab by slab."""

    def __init__(self, entry: Entry) -> None:
        rows = entry.shape[0]
        dense = entry.choice.weight.dense
        self._name = "mask" if dense else "codes"
        width, columns = code_shape(entry)
        self._packer = CodePacker(1 if dense else width, rows * columns)
        self._learned = entry.choice.weight.codebook in ("row", "layer")
        self._scaled = entry.choice.weight.codebook != "row" and not entry.choice.weight.ggml
        self._others: dict[str, list[torch.Tensor]] = {}

    def add_mask(self, mask: torch.Tensor, values: torch.Tensor | None) -> None:
        self._packer.add(mask.to(torch.int8) - 1)
        if values is not None:
            self._others.setdefault("values", []).append(values[mask])

    def add(self, found: QuantizedWeight) -> None:
        self._packer.add(found.codes)
        others = {
            "scales": found.scales if self._scaled else None,
            "zeros": found.zeros,
            "levels": found.levels if self._learned else None,
            "global_scales": found.global_scales,
        }
        for name, tensor in others.items():
            if tensor is not None:
                # Narrow dtypes cannot be joined everywhere; their bytes can.
                self._others.setdefault(name, []).append(tensor)

    def tensors(self) -> dict[str, torch.Tensor]:
        found = {self._name: self._packer.packed}
        for name, parts in self._others.items():
            # Exponents stay bytes, as in their container: not every reader of files knows the dtype.
            dtype = torch.uint8 if parts[0].dtype == torch.float8_e8m0fnu else parts[0].dtype
            found[name] = torch.cat([part.view(torch.uint8) for part in parts]).view(dtype)
        return {name: tensor.cpu().contiguous() for name, tensor in found.items()}


def make_tensors(
    entries: Sequence[Entry],
    source: RowSource,
    statistics: Statistics,
    scale_dtype: torch.dtype,
    seen: LayerStatistics | None = None,
) -> list[dict[str, torch.Tensor]]:
    """What is written for entries that differ in their weight format alone, one mapping an entry.

    Packed ``mask`` (with the ``values`` that stay, where they are not the checkpoint's), or packed ``codes`` and what
    else a :class:`QuantizedWeight` holds and its format does not say.

    Raises:
        ModelError: a weight that is not finite; names the layer.
        FormatError: a format or pattern that does not fit.
    """
    first, formats = entries[0], [entry.choice.weight for entry in entries]
    parts = [_Parts(entry) for entry in entries]
    for slab in slabs(first, source, statistics, seen, _whole_matrix(first, formats)):
        if first.quantizer is None:
            if slab.mask is not None:
                parts[0].add_mask(slab.mask, slab.weight.to(scale_dtype) if first.updated else None)
            continue
        found = first.quantizer.quantize_all(
            slab.weight, formats, slab.statistics, scale_dtype, first.linear.name
        )
        for part, quantized in zip(parts, found, strict=True):
            part.add(quantized)
    return [part.tensors() for part in parts]


def _whole_matrix(entry: Entry, formats: Sequence[WeightFormat]) -> bool:
    """Whether what becomes of a row depends on other rows of its matrix."""
    sparsity, pruner = entry.choice.sparsity, entry.pruner
    if (
        pruner is not None
        and sparsity is not None
        and sparsity.pattern == "unstructured"
        and pruner.across_rows
    ):
        return True
    return any(weight.whole_matrix or weight.block_rows != 1 for weight in formats)


def read_quantized(entry: Entry, tensors: dict[str, torch.Tensor]) -> QuantizedWeight:
    """The weight of all experts from what was written."""
    weight_format = entry.choice.weight
    rows, columns = entry.shape
    width, stored = code_shape(entry)
    codes = unpack_codes(tensors["codes"], width, (rows, stored))
    if weight_format.ggml:
        return GgmlWeight.of(codes, weight_format.ggml)
    scales = tensors.get("scales")
    if scales is not None and weight_format.scale == "exponent":
        scales = scales.view(torch.float8_e8m0fnu)
    return QuantizedWeight(
        codes,
        torch.ones(rows, 1, device=codes.device) if scales is None else scales,
        tensors.get("zeros"),
        weight_format.group_size or columns,
        weight_format.block_rows or rows // entry.linear.experts,
        tensors.get("levels", fixed_levels(weight_format, codes.device)),
        weight_format.number_type == "float" and weight_format.num_bits == 8,
        tensors.get("global_scales"),
    )


def expanded(entry: Entry, tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """The weight of all experts from what was written, computed in float32 and rounded to ``dtype``."""
    weight, (rows, columns) = entry.choice.weight, entry.shape
    size = weight.group_size or columns
    plain = weight.number_type == "int" and weight.block_rows == 1 and not weight.ggml
    plain = plain and weight.codebook == "none" and columns % size == 0
    if plain and tensors["codes"].is_cuda and find_spec("triton") is not None:
        from paretune.compressors.gpu_kernels import expand

        out = torch.empty(rows, columns, dtype=dtype, device=tensors["codes"].device)
        return expand(tensors["codes"], weight.num_bits, tensors["scales"], tensors.get("zeros"), size, out)
    return read_quantized(entry, tensors).dequantize().to(dtype)


def read_mask(entry: Entry, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Which weights stay, bool ``(experts * rows, columns)``."""
    return unpack_codes(tensors["mask"], 1, entry.shape) == 0


def pruned_matrix(entry: Entry, dense: torch.Tensor, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """A dense, pruned entry in float32.

    Args:
        entry: what was written.
        dense: the unpruned weights, ``(experts * rows, columns)``.
        tensors: what was written.
    """
    mask = read_mask(entry, tensors)
    if "values" not in tensors:
        return dense * mask
    found = torch.zeros_like(dense)
    found[mask] = tensors["values"].to(dense)
    return found

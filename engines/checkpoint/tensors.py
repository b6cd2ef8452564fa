"""The tensors of an export: what compressed-tensors calls each, what is in it, and the files that hold them.

Names are those of the model in ``transformers``, so that nothing is renamed on loading: a renamed tensor of a
quantized checkpoint keeps its stored dtype whatever dtype is asked for. Layouts and bytes of containers:
:mod:`paretune.spaces.containers`; which container: :mod:`paretune.engines.checkpoint.schemes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from paretune.compressors.expert_names import expert_modules, plain_name
from paretune.compressors.input_rounding import input_factor
from paretune.compressors.quantizers import QuantizedWeight
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.choice import UNTOUCHED
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.files import write_whole
from paretune.spaces.formats import WeightFormat
from paretune.spaces.methods import scaled_blocks
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_linears, kept_name, lies_unpacked

if TYPE_CHECKING:
    from paretune.compressors.weight_provider import WeightProvider


Named = Iterator[tuple[str, torch.Tensor]]


def weight_tensors(
    path: str, found: QuantizedWeight, weight: WeightFormat, *, unpacked: bool = False
) -> Named:
    """What is stored for the linear at ``path``; ``unpacked``: symmetric 8-bit integers in place of the weight."""
    if unpacked:
        yield f"{path}.weight", found.codes.cpu().contiguous()
        yield f"{path}.weight_scale", _scales(found, weight)
        return
    if weight.number_type == "int":
        yield from _packed(path, found, weight)
        return
    codes = found.codes.cpu().contiguous()
    if weight.num_bits == 8:
        yield f"{path}.weight", codes.view(torch.float8_e4m3fn)
    else:
        nibbles = codes.view(torch.uint8).view(len(codes), -1, 2) & 15
        yield f"{path}.weight_packed", (nibbles[..., 0] | (nibbles[..., 1] << 4)).contiguous()
    yield f"{path}.weight_scale", _scales(found, weight)
    if found.global_scales is not None:
        yield f"{path}.weight_global_scale", found.global_scales.cpu().reshape(1).clone()


def _packed(path: str, found: QuantizedWeight, weight: WeightFormat) -> Named:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    codes = found.codes.cpu()
    yield f"{path}.weight_packed", pack_to_int32(codes, weight.num_bits).contiguous()
    yield f"{path}.weight_scale", _scales(found, weight)
    if found.zeros is not None:
        zeros = pack_to_int32(found.zeros.cpu().contiguous(), weight.num_bits, packed_dim=0)
        yield f"{path}.weight_zero_point", zeros.contiguous()
    yield f"{path}.weight_shape", torch.tensor(list(codes.shape), dtype=torch.int64)


def _scales(found: QuantizedWeight, weight: WeightFormat) -> torch.Tensor:
    scales = found.scales.cpu().contiguous().clone()
    if weight.scale == "exponent":
        return scales.view(torch.uint8)
    return scales.reshape(1) if weight.block_rows == 0 else scales


class StoredTensors:
    """What is written for a candidate.

    Args:
        spec: of the dense model.
        bank: with the weights.
        config: of the candidate.
        published_names: whether names are the published ones although something is quantized.
        unfolded: whether the loader has linears in place of experts, as soon as something is quantized.
        pack: how the codes of a linear are stored; another form of checkpoint has another packing.
    """

    def __init__(
        self,
        spec: ModelSpec,
        bank: WeightProvider,
        config: CompressionConfig,
        *,
        published_names: bool = False,
        unfolded: bool = False,
        pack: Callable[..., Named] = weight_tensors,
    ) -> None:
        self._spec = spec
        self._pack = pack
        self._bank = bank
        self._config = config
        self._dtype: torch.dtype = getattr(torch, spec.dtype)
        self._factors: dict[str, torch.Tensor] = {}
        self._plain = published_names or all(choice.weight.dense for choice in config.layers.values())
        self._unfolded = unfolded and not self._plain

    def __iter__(self) -> Named:
        """Every tensor, contiguous and on the CPU, in the order of the model."""
        for linear in kept_linears(self._spec, self._config):
            yield from self._layer(linear)
        scaled = scaled_blocks(self._spec, self._config)
        for fixed in self._spec.fixed:
            if self._config.keeps_block(fixed.block):
                choice = UNTOUCHED if fixed.block is None else scaled.get(fixed.block, UNTOUCHED)
                value = self._bank.fixed(fixed.name, self._config.pruned, choice)
                yield self._final_name(fixed.name), self._dense(value)

    def _layer(self, linear: Linear) -> Named:
        weight = self._config.choice(linear.name).weight
        if weight.dense:
            yield from self._dense_layer(linear)
        elif linear.role == "embedding" and weight.num_bits == 8:
            yield from self._embedding(linear)
        elif linear.role.startswith("expert"):
            for expert in range(linear.experts):
                yield from self._expert(linear, expert)
        else:
            path = self._final_name(linear.name)
            unpacked = lies_unpacked(linear, self._config.choice(linear.name))
            yield from self._pack(path, self._codes(linear), weight, unpacked=unpacked)
            yield from self._inputs(linear, path)

    def _dense_layer(self, linear: Linear) -> Named:
        choice, pruned = self._config.choice(linear.name), self._config.pruned
        value = self._dense(self._bank.tensor(linear.name, choice, pruned))
        alone = self._unfolded if linear.transposed else self._plain
        if not (linear.stacked and alone):
            # Beside quantized tensors, dense experts are found only under the name of their parameter; those that lie
            # as (in, out) are published under no other.
            yield kept_name(self._spec, pruned, linear.parameter), value
            return
        for expert in range(linear.experts):
            modules = expert_modules(self._spec, linear, expert)
            rows = value[expert].t() if linear.transposed else value[expert]
            for module, part in zip(modules, rows.chunk(linear.pieces), strict=True):
                yield self._final_name(f"{module}.weight"), part.clone(memory_format=torch.contiguous_format)

    def _embedding(self, linear: Linear) -> Named:
        found = self._codes(linear)
        yield f"{linear.name}.weight", found.codes.cpu().contiguous()
        for owner in (linear.name, self._spec.head.name) if self._spec.tied else (linear.name,):
            yield f"{owner}.weight_scale", found.scales.cpu().contiguous().clone()
            if found.zeros is not None:
                yield f"{owner}.weight_zero_point", found.zeros.cpu().contiguous().clone()

    def _expert(self, linear: Linear, expert: int) -> Named:
        choice, found = self._config.choice(linear.name), self._codes(linear, expert)
        modules = expert_modules(self._spec, linear, expert)
        rows = found.codes.shape[0] // linear.pieces
        for piece, module in enumerate(modules):
            part, path = found.rows(piece * rows, (piece + 1) * rows), self._final_name(module)
            yield from weight_tensors(path, part, choice.weight, unpacked=lies_unpacked(linear, choice))
            yield from self._inputs(linear, path)

    def _inputs(self, linear: Linear, path: str) -> Named:
        """What calibration gave a static input: its scale, or the factor over the scales of groups."""
        activation = self._config.choice(linear.name).activation
        if activation is None or not activation.calibrated:
            return
        factor = self._factor(linear, activation)
        name = "input_scale" if activation.scale == "model" else "input_global_scale"
        dtype = self._dtype if activation.scale == "model" else torch.float32
        yield f"{path}.{name}", factor.to("cpu", dtype).reshape(1)

    def _factor(self, linear: Linear, wanted: ActivationFormat) -> torch.Tensor:
        """Of the layer, once: hundreds of experts store the same number."""
        if linear.name not in self._factors:
            self._factors[linear.name] = input_factor(
                self._spec, self._bank.statistics, linear, wanted, self._config.pruned, self._dtype
            )
        return self._factors[linear.name]

    def _codes(self, linear: Linear, expert: int = 0) -> QuantizedWeight:
        choice = self._config.choice(linear.name)
        found = self._bank.quantized(linear.name, choice, self._config.pruned, expert)
        if found is None:
            raise TypeError(f"the bank has no codes of {linear.name} at {choice.name}")
        return found

    def _dense(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(device="cpu", dtype=self._dtype).contiguous()

    def _final_name(self, name: str) -> str:
        name = kept_name(self._spec, self._config.pruned, name)
        return plain_name(self._spec, name) if self._plain else name


SHARD_BYTES = 5 * 10**9
_SINGLE = "model.safetensors"


def write_shards(
    tensors: Iterable[tuple[str, torch.Tensor]], folder: Path, shard_bytes: int = SHARD_BYTES
) -> int:
    """Write ``tensors`` into ``folder``; at most one shard is in memory. Returns the bytes of all tensors.

    Raises:
        ValueError: two tensors of one name.
        OSError: the disk refuses.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    places: dict[str, int] = {}
    held: dict[str, torch.Tensor] = {}
    total = held_bytes = shards = 0

    def flush() -> None:
        nonlocal held, held_bytes, shards
        try:
            save_file(held, folder / f"shard-{shards}", metadata={"format": "pt"})
        except SafetensorError as error:  # whatever the disk said, in words of its own
            raise OSError(str(error)) from error
        held, held_bytes, shards = {}, 0, shards + 1

    for name, tensor in tensors:
        if name in places:
            raise ValueError(f"tensor {name} is written twice")
        if held and held_bytes + tensor.nbytes > shard_bytes:
            flush()
        held[name] = tensor
        places[name] = shards
        held_bytes += tensor.nbytes
        total += tensor.nbytes
    flush()
    _name_shards(folder, places, shards, total)
    return total


def _name_shards(folder: Path, places: dict[str, int], shards: int, total: int) -> None:
    if shards == 1:
        (folder / "shard-0").rename(folder / _SINGLE)
        return
    names = [f"model-{index + 1:05d}-of-{shards:05d}.safetensors" for index in range(shards)]
    for index, name in enumerate(names):
        (folder / f"shard-{index}").rename(folder / name)
    index_file = {
        "metadata": {"total_size": total},
        "weight_map": {tensor: names[place] for tensor, place in sorted(places.items())},
    }
    text = json.dumps(index_file, indent=2) + "\n"
    write_whole(folder / f"{_SINGLE}.index.json", text)

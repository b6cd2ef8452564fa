"""Checkpoints that ship quantized: by which method, and what they weigh as they came.

The specification of such a model is that of the model it dequantizes to; the checkpoint's own bytes are kept beside it.
They are those of its files where these are there, else they follow from what the configuration says of every layer.
Layers of such configurations have the names of the checkpoint, which need not be those of ``transformers``: they are
matched from the block's number on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

from paretune.spaces.architectures.headers import present_files, read_header
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.errors import ModelError
from paretune.spaces.files import CONFIGURATION, read_object
from paretune.spaces.model import ModelSpec, Shipped
from paretune.spaces.size import weight_bytes

_BESIDE = "hf_quant_config.json"
QUANTIZATION_KEYS = ("quantization_config", "compression_config")
"""Of a configuration, under which it says how its weights are quantized."""
_EXCLUDED = ("modules_to_not_convert", "ignore", "exclude_modules", "ignored_layers", "llm_int8_skip_modules")


@dataclass(frozen=True)
class _Scheme:
    """How one linear is stored: bits of a code, bytes of the scale of a group (``None``: of a row), of the whole."""

    bits: float
    scale_bytes: float = 0.0
    group: int | None = None
    square: int = 0
    rest: int = 0

    def of(self, rows: int, columns: int) -> float:
        """Bytes of a matrix."""
        codes = rows * columns * self.bits / 8
        if self.square:
            return codes + ceil(rows / self.square) * ceil(columns / self.square) * self.scale_bytes
        return codes + rows * ceil(columns / (self.group or columns)) * self.scale_bytes + self.rest


_ALGORITHMS: Mapping[str, _Scheme] = {
    "fp8": _Scheme(8, rest=8),  # a scale of the weight and one of the input
    "fp8_pb_wo": _Scheme(8, 4, square=128),
    "nvfp4": _Scheme(4, 1, 16, rest=8),
    "w4a16_nvfp4": _Scheme(4, 1, 16, rest=4),
    "mxfp4": _Scheme(4, 1, 32),
    "mxfp8": _Scheme(8, 1, 32),
    "w4a16": _Scheme(4, 2, 128),
    "w4a8_awq": _Scheme(4, 2, 128),
    "w8a8_sq_per_channel": _Scheme(8, 4),
    "int8": _Scheme(8, 4),
}


@dataclass(frozen=True)
class Quantization:
    """What a folder says of how its checkpoint is quantized.

    Attributes:
        method: in the words of ``transformers`` (``fp8``, ``mxfp4``, ``gptq``) or of the tool (``modelopt NVFP4``).
        values: the configuration.
    """

    method: str
    values: Mapping[str, Any]

    def shipped(self, folder: Path, spec: ModelSpec) -> Shipped:
        """Method and bytes: of the files, or as the configuration says."""
        files = present_files(folder)
        if files:
            stored = sum(tensor.size_bytes for file in files for tensor in read_header(file))
            return Shipped(method=self.method, weight_bytes=stored)
        return Shipped(method=self.method, weight_bytes=self._described(spec), exact=False)

    def _described(self, spec: ModelSpec) -> int:
        """Bytes that follow from the configuration: whatever is no linear of a block is as wide as the model."""
        saved = 0.0
        for linear in spec.block_linears:
            scheme = self._scheme(linear.name)
            if scheme is not None:
                rows, columns = linear.out_features // linear.pieces, linear.in_features
                count = linear.pieces * linear.experts
                saved += count * (rows * columns * spec.dtype_bytes - scheme.of(rows, columns))
        return weight_bytes(spec, DENSE_CONFIG) - round(saved)

    def _scheme(self, name: str) -> _Scheme | None:
        """How the linears of a layer are stored; ``None``: as they were."""
        algorithm = self._named.get(_place(name))
        if algorithm is not None:
            return _ALGORITHMS.get(algorithm)
        return None if name in self._excluded else self._usual(name)

    @cached_property
    def _excluded(self) -> _Names:
        """Layers that are left out."""
        return _Names([pattern for key in _EXCLUDED for pattern in self.values.get(key) or ()])

    @cached_property
    def _named(self) -> dict[tuple[str, str], str]:
        """Algorithms of layers that are named one by one, by their :func:`_place`."""
        said = self.values.get("quantized_layers")
        layers = said.items() if isinstance(said, Mapping) else ()
        return {_place(layer): str(one.get("quant_algo", "")).lower() for layer, one in layers}

    def _usual(self, name: str) -> _Scheme | None:
        values = self.values
        method = str(values.get("quant_method") or "").lower()
        algorithm = str(values.get("quant_algo") or "").lower()
        if algorithm in _ALGORITHMS:
            return _ALGORITHMS[algorithm]
        if method == "fp8":
            block = values.get("weight_block_size")
            return _Scheme(8, 4, square=int(block[0])) if block else _ALGORITHMS["fp8"]
        if method == "mxfp4":
            return _ALGORITHMS["mxfp4"]
        if method in ("gptq", "awq"):
            bits, group = int(values.get("bits", 4)), int(values.get("group_size", 128))
            return _Scheme(bits, 2 + bits / 8, None if group <= 0 else group)
        if method == "bitsandbytes":
            return _Scheme(4, 4, 64) if values.get("load_in_4bit") else _Scheme(8, 4)
        return _of_groups(values.get("config_groups"), name)


def _of_groups(groups: Any, name: str) -> _Scheme | None:
    """The scheme of compressed-tensors: the first group whose targets name the layer."""
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights, targets = group.get("weights"), group.get("targets") or ["Linear"]
        if weights and ("Linear" in targets or name in _Names(targets)):
            bits, size = int(weights.get("num_bits", 8)), weights.get("group_size")
            scale = 1 if size and weights.get("type") == "float" and bits == 4 else 2
            block = weights.get("block_structure")
            if block:
                return _Scheme(bits, 4, square=int(block[0]))
            return _Scheme(bits, scale, int(size) if size and int(size) > 0 else None)
    return None


def find_quantization(folder: Path, values: Mapping[str, Any]) -> Quantization | None:
    """How the checkpoint in ``folder`` is quantized; ``None`` where nothing says that it is.

    Args:
        folder: of the model.
        values: its ``config.json``.

    Raises:
        ModelError: what is said is no object.
    """
    nested = values.get("text_config")
    said = [
        place.get(key)
        for place in (values, nested)
        if isinstance(place, Mapping)
        for key in QUANTIZATION_KEYS
    ]
    found: dict[str, Any] = {}
    beside = folder / _BESIDE
    if beside.is_file():
        tool = read_object(beside, CONFIGURATION)
        found |= _mapping(tool.get("quantization", {}), beside)
        found.setdefault("quant_method", "modelopt")
    for one in filter(None, said):
        found |= {
            key: value for key, value in _mapping(one, folder / "config.json").items() if value is not None
        }
    if not found:
        return None
    algorithm = found.get("quant_algo")
    method = found.get("quant_method") or ("modelopt" if algorithm else "a method without a name")
    return Quantization(f"{method} {algorithm}" if algorithm else str(method), found)


def _mapping(found: Any, file: Path) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise ModelError(f"quantization {found!r} in {file}", "must be an object", "Correct the file")
    return dict(found)


class _Names:
    """The layers that patterns of a quantized checkpoint mean: by a part of the name, a module around it, a pattern.

    Args:
        patterns: ``lm_head``; ``model.layers.3.self_attn``; ``*.layers.3*``; ``re:.*down_proj``.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._parts, self._modules = set[str](), set[str]()
        self._wild: list[str] = []
        self._expressions: list[re.Pattern[str]] = []
        for pattern in patterns:
            if pattern.startswith("re:"):
                self._expressions.append(re.compile(pattern[3:]))
            elif "*" in pattern:
                self._wild.append(_inside(pattern))
            else:
                (self._modules if "." in pattern else self._parts).add(_inside(pattern))

    def __contains__(self, name: str) -> bool:
        inside = _inside(name)
        parts = inside.split(".")
        around = {".".join(parts[: end + 1]) for end in range(len(parts))}
        return bool(
            self._parts.intersection(name.split("."))
            or self._modules & around
            or any(fnmatchcase(inside, form) for wild in self._wild for form in (wild, f"{wild}.*"))
            or any(expression.match(name) for expression in self._expressions)
        )


def _place(name: str) -> tuple[str, str]:
    """Number of the block, and the linear; the experts of a block are one, whatever their checkpoint calls them."""
    inside = _inside(name)
    experts = re.search(r"(^|\.)experts(\.|$)", inside) is not None
    return inside.partition(".")[0], "experts" if experts else inside.rpartition(".")[2]


def _inside(name: str) -> str:
    """From the block's number on, without the number of an expert: ``3.mlp.experts.down_proj``."""
    found = re.search(r"(?:^|\.)(?:layers|h|blocks)\.(.*)$", name)
    return re.sub(r"\.experts\.\d+(?=\.|$)", ".experts", name if found is None else found[1])

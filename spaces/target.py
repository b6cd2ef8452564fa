"""Where a model will run and for what: :class:`Device` and :class:`Workload`."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import model_validator

from paretune.spaces.errors import ConfigurationError
from paretune.spaces.schema import Document

_SHORT_NAME = re.compile(r"b(\d+)-p(\d+)-o(\d+)")
_WORKLOAD_KEYS = {
    "batch": "batch",
    "prompt": "prompt_tokens",
    "prompt_tokens": "prompt_tokens",
    "output": "output_tokens",
    "output_tokens": "output_tokens",
    "tensor_parallel": "tensor_parallel",
}


class Device(Document):
    """A data sheet.

    Attributes:
        name: registered name, e.g. ``h100-sxm``, ``x86-avx512``.
        label: for people.
        kind: which family of engines applies.
        generation: ``hopper``, ``ampere``, ``ada``, ``x86`` ...: what legality and numeric paths depend on.
        memory_bytes: what a model, its cache and its activations share.
        bandwidth_bytes_per_s: of that memory.
        cache_bytes: last-level cache.
        peak_operations_per_s: dense peak by arithmetic (``fp32``, ``bf16``, ``fp8``, ``int8``, ``int4``);
            operations (a multiply-add is two) a second; a type that is absent has no unit of its own.
        launch_s: time between two dependent kernels that no kernel can hide.
        source: where the figures come from.
    """

    name: str
    label: str
    kind: Literal["gpu", "cpu"]
    generation: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    cache_bytes: int
    peak_operations_per_s: dict[str, float]
    launch_s: float
    source: str


class Workload(Document):
    """What a deployment does; a cost means nothing without it.

    Attributes:
        batch: sequences decoded together.
        prompt_tokens, output_tokens: per sequence.
        tensor_parallel: devices that share every layer.
    """

    batch: int = 1
    prompt_tokens: int = 128
    output_tokens: int = 128
    tensor_parallel: int = 1

    @model_validator(mode="after")
    def _positive(self) -> Workload:
        for field in ("batch", "prompt_tokens", "output_tokens", "tensor_parallel"):
            if getattr(self, field) < 1:
                raise ConfigurationError(
                    f"workload {field}={getattr(self, field)}", "must be at least 1", "Use a positive number"
                )
        return self

    @classmethod
    def parse(cls, text: str) -> Workload:
        """Read ``batch=8,prompt=512,output=128`` or ``b8-p512-o128``; what is left out keeps its default.

        Keys: ``batch`` (sequences), ``prompt`` and ``output`` (tokens per sequence), ``tensor_parallel``
        (devices).

        Raises:
            ConfigurationError: unreadable text, an unknown or repeated key, or no positive number.
        """
        short = _SHORT_NAME.fullmatch(text.strip())
        if short is not None:
            names = ("batch", "prompt_tokens", "output_tokens")
            numbers = zip(names, short.groups(), strict=True)
            return cls(**{name: _workload_number(name, number, text) for name, number in numbers})
        fields: dict[str, Any] = {}
        for part in text.split(","):
            key, separator, value = (piece.strip() for piece in part.partition("="))
            field = _WORKLOAD_KEYS.get(key)
            if not separator or field is None or field in fields:
                raise _unreadable_workload(text, part)
            fields[field] = _workload_number(field, value, text)
        return cls(**fields)

    @property
    def context(self) -> int:
        """Tokens in the cache of one sequence when its last token is written."""
        return self.prompt_tokens + self.output_tokens

    @property
    def name(self) -> str:
        """E.g. ``b1-p128-o128``."""
        return f"b{self.batch}-p{self.prompt_tokens}-o{self.output_tokens}"


def _workload_number(field: str, value: str, text: str) -> int:
    try:
        number = int(value)
    except ValueError:
        raise _unreadable_workload(text, f"{field}={value}") from None
    if number < 1:
        raise _unreadable_workload(text, f"{field}={value}")
    return number


def _unreadable_workload(text: str, part: str) -> ConfigurationError:
    return ConfigurationError(
        f"{part.strip()!r} in workload {text!r}",
        f"must be KEY=POSITIVE NUMBER, each key once; keys: {', '.join(_WORKLOAD_KEYS)}",
        "E.g. batch=8,prompt=512,output=128, or b8-p512-o128",
    )

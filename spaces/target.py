"""Where a model will run and for what: :class:`Device` and :class:`Workload`."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from spaces.errors import ConfigurationError
from spaces.schema import Document


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
        idle_w, peak_w: power.
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
    idle_w: float
    peak_w: float
    source: str


class Workload(Document):
    """What a deployment does; a cost means nothing without it.

    Attributes:
        batch: sequences decoded together.
        prompt_tokens, output_tokens: per sequence.
        tensor_parallel: devices that share every layer.
        arrival_per_s: requests a second; ``None``: batches follow one another.
    """

    batch: int = 1
    prompt_tokens: int = 128
    output_tokens: int = 128
    tensor_parallel: int = 1
    arrival_per_s: float | None = None

    @model_validator(mode="after")
    def _positive(self) -> Workload:
        for field in ("batch", "prompt_tokens", "output_tokens", "tensor_parallel"):
            if getattr(self, field) < 1:
                raise ConfigurationError(
                    f"workload {field}={getattr(self, field)}", "must be at least 1", "Use a positive number"
                )
        return self

    @property
    def context(self) -> int:
        """Tokens in the cache of one sequence when its last token is written."""
        return self.prompt_tokens + self.output_tokens

    @property
    def name(self) -> str:
        """E.g. ``b1-p128-o128``."""
        return f"b{self.batch}-p{self.prompt_tokens}-o{self.output_tokens}"

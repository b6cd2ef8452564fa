"""How a compressed-tensors checkpoint differs by who loads it."""

from __future__ import annotations

from dataclasses import dataclass

from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import CompressionConfig


@dataclass(frozen=True)
class CheckpointLayout:
    """What a loader wants besides the tensors themselves.

    Attributes:
        engine: registered name of the engine that loads it.
        published_names: whether quantized mixtures, too, have the names that the family publishes (every expert's
            linears alone); ``transformers`` finds them under the names of its own modules.
        cache_scheme: whether the loader does what ``kv_cache_scheme`` says.
    """

    engine: str
    published_names: bool = False
    cache_scheme: bool = False

    def cache(self, config: CompressionConfig) -> KVFormat | None:
        """The format that ``kv_cache_scheme`` has to name, if any."""
        return config.kv if self.cache_scheme and config.kv.num_bits != 16 else None


TRANSFORMERS = CheckpointLayout("transformers")
VLLM = CheckpointLayout("vllm", published_names=True, cache_scheme=True)

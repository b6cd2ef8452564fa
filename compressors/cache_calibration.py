"""Static scales of an E4M3 cache, calibrated: the largest key and value of every block over 448.

As compressed-tensors and vLLM define them for a ``kv_cache_scheme`` that is not dynamic; keys are taken after rotary
embedding, as they are stored.
"""

from __future__ import annotations

from typing import Any

import torch

from paretune.compressors.cache_rounding import CacheRounding
from paretune.compressors.float_rounding import LARGEST_E4M3
from paretune.compressors.observation import micro_batches
from paretune.compressors.windows import TokenWindows
from paretune.spaces.cache_format import KVFormat

_TOKENS_AT_ONCE = 4096


class Peak:
    """The largest magnitude of all states that pass; they stay as they are."""

    def __init__(self) -> None:
        self._largest: torch.Tensor | None = None

    def round(self, states: torch.Tensor) -> torch.Tensor:
        """Look at ``states`` and hand them back."""
        found = states.abs().amax().to(torch.float32)
        self._largest = found if self._largest is None else torch.maximum(self._largest, found)
        return states

    @property
    def scale(self) -> float:
        """A float32 number; 1 where nothing but zeros was seen, NaN where a state was not a number."""
        if self._largest is None:
            return 1.0
        scale = float(self._largest / LARGEST_E4M3)
        return 1.0 if scale == 0 else scale


@torch.inference_mode()
def calibrate_cache(model: Any, windows: TokenWindows) -> KVFormat:
    """The E4M3 format of a model, with scales of its own for every block.

    Args:
        model: in its dense state.
        windows: a calibration text.

    Raises:
        ConfigurationError: the model's cache is rounded already.
        FormatError: keys or values are not finite.
    """
    rounding = CacheRounding(model, torch.float32)
    peaks = {block: (Peak(), Peak()) for block in rounding.modules}
    with rounding.watching(peaks):
        for ids in micro_batches(windows.ids, _TOKENS_AT_ONCE):
            model(input_ids=ids.to(model.device), use_cache=False)
    return KVFormat.layered(
        [
            KVFormat(num_bits=8, number_type="float", key_scale=keys.scale, value_scale=values.scale)
            for _, (keys, values) in sorted(peaks.items())
        ]
    )

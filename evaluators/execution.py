"""A candidate is scored as it will run, which is not always as it is stored.

Where a device has no kernel that rounds the inputs of a format, for one, the engine leaves them alone, and so does the
model that is scored. Engines say what they execute; evaluators are told by a function.
"""

from __future__ import annotations

from collections.abc import Callable

from paretune.spaces.configuration import CompressionConfig

Executed = Callable[[CompressionConfig], CompressionConfig]
"""The candidate as an engine computes it on a device."""


def as_stored(config: CompressionConfig) -> CompressionConfig:
    """An engine that computes what the file says."""
    return config

"""From a model folder to a :class:`~paretune.spaces.model.ModelSpec`, without loading a weight.

One file a family, one line of registration each in :mod:`paretune.spaces.architectures.registry`.
"""

from __future__ import annotations

from paretune.spaces.architectures.pruned import pruned_config
from paretune.spaces.architectures.reading import read_model
from paretune.spaces.architectures.weights import check_weights

__all__ = ["check_weights", "pruned_config", "read_model"]

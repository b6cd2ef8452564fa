"""From a model folder to a :class:`~paretune.spaces.model.ModelSpec`, without loading a weight.

``transformers`` builds the model on the meta device and :mod:`~paretune.spaces.architectures.description` reads it;
what shapes cannot tell is one line per family in :mod:`~paretune.spaces.architectures.families`.
"""

from __future__ import annotations

from paretune.spaces.architectures.pruned import pruned_config
from paretune.spaces.architectures.reading import read_model
from paretune.spaces.architectures.weights import check_weights

__all__ = ["check_weights", "pruned_config", "read_model"]

"""From a model folder to a :class:`~spaces.model.ModelSpec`, without loading a weight.

One file a family, one line of registration each in :mod:`spaces.architectures.registry`.
"""

from __future__ import annotations

from spaces.architectures.reading import read_model
from spaces.architectures.student import student_config
from spaces.architectures.weights import check_weights

__all__ = ["check_weights", "read_model", "student_config"]

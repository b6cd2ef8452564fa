"""Function-preserving changes of a whole dense model by name: one line here for each.

They come before any bank: what they leave is a dense model like any other, and
:func:`paretune.compressors.transforms.checkpoint.write_model` writes it as a plain folder.
"""

from __future__ import annotations

from paretune.compressors.transforms.transform import Transform, Transformed
from paretune.spaces.registry import Registry

TRANSFORMS: Registry[Transform] = Registry(
    "transform", __name__, {"smoothquant": "smoothing:Smoothing", "hadamard": "rotation:Rotation"}
)
find_transform = TRANSFORMS.find

__all__ = ["TRANSFORMS", "Transform", "Transformed", "find_transform"]

"""Function-preserving changes of a whole dense model by name: one file each, one line here, one in the contract test.

They come before any bank: what they leave is a dense model like any other, and
:func:`paretune.compressors.transforms.checkpoint.write_model` writes it as a plain folder.
"""

from __future__ import annotations

from paretune.compressors.transforms.outlier_channels import OutlierChannels
from paretune.compressors.transforms.rotation import Rotation
from paretune.compressors.transforms.smoothing import Smoothing
from paretune.compressors.transforms.transform import Transform, Transformed
from paretune.spaces.errors import UnknownNameError

TRANSFORMS: dict[str, Transform] = {
    transform.name: transform
    for transform in (
        OutlierChannels(),
        Smoothing(),
        Rotation(),
    )
}  # fmt: skip


def find_transform(name: str) -> Transform:
    """The transform called ``name``, with its default settings.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in TRANSFORMS:
        raise UnknownNameError("transform", name, TRANSFORMS)
    return TRANSFORMS[name]


__all__ = ["TRANSFORMS", "Transform", "Transformed", "find_transform"]

"""Whether a loaded model is still the dense one, and the dense one where a candidate has taken its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paretune.compressors.loading import load_dense
from paretune.compressors.streamed_model import StreamedModel
from paretune.compressors.weight_source import WeightSource
from paretune.spaces.errors import RunError
from paretune.spaces.model import ModelSpec


def is_dense(model: Any, source: WeightSource, spec: ModelSpec) -> bool:
    """Whether a loaded model computes what it was loaded as: its tensors, no rounding of inputs or cache."""
    found = dict(model.named_parameters())
    if set(found) != set(spec.parameter_shapes) or any(
        parameter.data_ptr() != source.loaded(name).data_ptr() or parameter.shape != source.loaded(name).shape
        for name, parameter in found.items()
    ):
        return False
    changed = any(
        module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module)
        for module in model.modules()
    )
    return not changed and model.config._attn_implementation in ("sdpa", "eager")


def dense_model(model: Any, source: WeightSource, spec: ModelSpec, checkpoint: Path | None, what: str) -> Any:
    """The model itself while it is dense or streamed, else one that is loaded anew.

    Args:
        model: as a bank was opened with; it may have become a candidate since.
        source: its dense weights.
        spec: of the model.
        checkpoint: folder to load the dense model from.
        what: is to be gathered, for the error.

    Raises:
        RunError: it is a candidate, and there is no checkpoint.
    """
    if isinstance(model, StreamedModel) or is_dense(model, source, spec):
        return model
    if checkpoint is None:
        raise RunError(
            what,
            "the model is a candidate by now, and there is no checkpoint to load the dense one from",
            "Ask before the first candidate is assembled, or apply the dense configuration",
        )
    first = next(model.parameters())
    return load_dense(checkpoint, spec, first.dtype, first.device)

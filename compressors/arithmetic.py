"""In which arithmetic candidates are read, and what noise that leaves under every KL.

Sensitivities of single layers at 8 bits are about 1e-6 nats. The dense model in bfloat16 differs from itself in float32
by a hundred times that, so nothing could be told apart there. What an arithmetic adds is measured: KL of the dense
model in float32 from the same model in it, on two windows. The cheapest one below the floor that is asked for is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_dense, narrow
from paretune.compressors.windows import TokenWindows
from paretune.spaces.errors import BrokenCandidateError
from paretune.spaces.model import ModelSpec

CHEAPEST_FIRST = ("tf32", "float32")
"""On a GPU that has room for float32. float16 is up to twice as fast and leaves some six times the noise of TF32."""
HALVES = ("float16", "bfloat16")
"""Where float32 has no room. bfloat16, whose numbers do not overflow, leaves sixty times the noise of float16."""
_WINDOWS = 2
_ROOM = 1.25
"""Of the weights of a model: what loading and reading it in float32 takes."""


@dataclass(frozen=True)
class Arithmetic:
    """An arithmetic, and its noise.

    Attributes:
        name: what weights and hidden states are; ``tf32`` is float32 whose factors are rounded to 10 bits.
        kl_floor: nats; KL of the dense model in float32 from it in this arithmetic.
    """

    name: str
    kl_floor: float

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and hidden states."""
        found: torch.dtype = getattr(torch, {"tf32": "float32"}.get(self.name, self.name))
        return found

    @property
    def tf32(self) -> bool:
        """Whether products of float32 are rounded."""
        return self.name == "tf32"


def load_for_scoring(
    folder: Path,
    spec: ModelSpec,
    windows: TokenWindows,
    device: str,
    name: str,
    floor: float,
) -> tuple[Any, Arithmetic]:
    """The dense model in the arithmetic that candidates are read in.

    Args:
        folder, spec: of the checkpoint.
        windows: two of them are read.
        device: of torch.
        name: ``float16``, ``bfloat16``, ``tf32`` or ``float32``; ``auto`` is float32 on a CPU, and on a GPU the
            cheapest whose noise is below ``floor``, of halves alone where float32 has no room.
        floor: nats.

    Raises:
        ModelError: as :func:`~paretune.compressors.loading.load_dense` does, or predictions that are not finite.
    """
    if name == "float32" or (name == "auto" and not _on_gpu(device)):
        return load_dense(folder, spec, torch.float32, device), Arithmetic("float32", 0.0)
    model = load_dense(folder, spec, torch.float32, device if _fits(spec, device) else "cpu")
    on_device = model.device.type == torch.device(device).type
    reference = Teacher(model, windows.first(min(_WINDOWS, windows.count)))
    ladder = CHEAPEST_FIRST if on_device else HALVES
    for place, tried in enumerate(ladder if name == "auto" else (name,)):
        found = Arithmetic(tried, 0.0)
        if place:  # what was rounded is lost
            _refill(model, load_dense(folder, spec, found.dtype, device))
        else:
            narrow(model, found.dtype)
        model.to(device)
        if tried == "float32":
            break
        measured = _floor(reference, model, tf32=found.tf32)
        enough = measured <= floor if on_device else measured < float("inf")
        if enough or name != "auto" or tried == "bfloat16":
            return model, Arithmetic(tried, measured)
    return model, Arithmetic("float32", 0.0)


def _refill(model: Any, fresh: Any) -> None:
    """Put the parameters of another model of the same checkpoint in the place of ``model``'s."""
    for name, parameter in fresh.named_parameters():
        model.get_parameter(name).data = parameter.data


def _floor(reference: Teacher, model: Any, *, tf32: bool) -> float:
    """Infinite where numbers overflow."""
    try:
        return float(reference.compare(model, tf32=tf32).kl.mean())
    except BrokenCandidateError:
        return float("inf")


def _on_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"


def _fits(spec: ModelSpec, device: str) -> bool:
    if not _on_gpu(device):
        return True
    return int(_ROOM * 4 * spec.parameters) < torch.cuda.mem_get_info(torch.device(device))[0]

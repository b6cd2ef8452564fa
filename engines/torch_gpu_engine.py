"""``torch``: any device that torch has, with dense products only.

Quantized weights are dequantized once and run dense, so they save no time and, while running, no memory: the
numeric path says so, and so does the note of every such operation.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from paretune.engines.checkpoint.legality import CheckpointLegality
from paretune.engines.runtime.attention_kernels import ATTENTION_KERNELS
from paretune.engines.selection import Selection
from paretune.engines.torch_engine import TorchEngine
from paretune.spaces.choice import LayerChoice
from paretune.spaces.errors import EngineError
from paretune.spaces.legality import Legality

if TYPE_CHECKING:
    import torch


class TorchDevice(TorchEngine):
    """bf16 on a GPU, float32 on a CPU."""

    name = "torch"
    kernels = ("fp32", "bf16", "gather", *ATTENTION_KERNELS)

    def select(self, choice: LayerChoice, n: int, k: int) -> Selection:
        """Always dense."""
        del n, k
        kernel = "bf16" if has_gpu() else "fp32"
        note = "" if choice.weight.dense else f"no kernel for {_words(choice)}: runs dense"
        if choice.sparsity is not None:
            note = "no kernel for zeros: runs dense"
        return Selection(kernel, note)

    def legality(self, device: str) -> Legality:
        """See :class:`paretune.engines.checkpoint.legality.CheckpointLegality`."""
        return CheckpointLegality(self.name, device)

    def numeric_path(self, device: str) -> str:
        """Dense, in the dtype of the device at hand."""
        del device
        kind = "bf16" if has_gpu() else "float32"
        return (
            f"torch: {kind}; quantized weights are dequantized (experts in the model's dtype) and run dense"
        )

    def _place(self, device: str | None) -> tuple[str, torch.dtype]:
        import torch

        chosen = device or ("cuda" if has_gpu() else "cpu")
        try:
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError) as error:
            raise EngineError(
                f"device {chosen!r}", f"torch cannot use it ({error})", "Use cpu, or a torch build with CUDA"
            ) from error
        return chosen, torch.float32 if chosen == "cpu" else torch.bfloat16


def _words(choice: LayerChoice) -> str:
    weight = choice.weight
    return f"{weight.num_bits} bits" if weight.number_type == "int" else weight.name


@cache
def has_gpu() -> bool:
    """Whether torch finds a CUDA device."""
    import torch

    return torch.cuda.is_available()

"""``torch-cpu``: this processor, with kernels for float32, 8 and 4 bits, 8-bit inputs and sparse rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paretune.engines.checkpoint.legality import CheckpointLegality
from paretune.engines.runtime.attention_kernels import ATTENTION_KERNELS
from paretune.engines.selection import Selection, select_on_cpu
from paretune.engines.torch_engine import TorchEngine
from paretune.spaces.choice import LayerChoice
from paretune.spaces.errors import EngineError
from paretune.spaces.legality import Legality

if TYPE_CHECKING:
    import torch


class TorchCpu(TorchEngine):
    """Dense products in float32 (bf16 needs instructions of its own); packed ones take bf16 inputs."""

    name = "torch-cpu"
    device_kind = "cpu"
    kernels = (
        "fp32", "bf16", "int8-weight-only", "int8-dynamic", "int4", "csr",
        "gather", "gather-int8", *ATTENTION_KERNELS,
    )  # fmt: skip

    def select(self, choice: LayerChoice, n: int, k: int) -> Selection:
        """The kernel of a layer; widths without one run dense, and the note says so."""
        return select_on_cpu(choice, n, k)

    def legality(self, device: str) -> Legality:
        """See :class:`paretune.engines.checkpoint.legality.CheckpointLegality`."""
        return CheckpointLegality(self.name, device)

    def numeric_path(self, device: str) -> str:
        """The same on every CPU."""
        del device
        return (
            "torch-cpu: float32, experts expanded in the model's dtype; weights of 4 and 8 bits times bf16 inputs, sums"
            " in float32"
        )

    def _place(self, device: str | None) -> tuple[str, torch.dtype]:
        import torch

        if device not in (None, "cpu"):
            raise EngineError(f"device {device!r}", "torch-cpu runs on the CPU", "Use the engine torch")
        return "cpu", torch.float32

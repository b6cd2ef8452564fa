"""What ``torch`` and ``torch-cpu`` share: plain PyTorch, and checkpoints that ``transformers`` loads."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.engines.checkpoint.export import (
    checkpoint_environment,
    expanded_in_float32,
    export_checkpoint,
    generation_line,
)
from paretune.engines.checkpoint.legality import checkpoint_ruling
from paretune.engines.engine import ExportCard, refuse_sharing
from paretune.engines.environments import Environment
from paretune.engines.operation import Operation
from paretune.engines.profiled_engine import Kernel, ProfiledEngine, Runtime
from paretune.engines.selection import Select
from paretune.engines.workload_operations import layer_selections, workload_operations
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.legality import LEGAL, Ruling, illegal
from paretune.spaces.model import ModelSpec
from paretune.spaces.target import Workload

if TYPE_CHECKING:
    import torch

    from paretune.compressors.assembly import Assembler
    from paretune.compressors.weight_provider import WeightProvider


class TorchEngine(ProfiledEngine):
    """Everything but legality, kernels and the device. Modules that import torch are imported late.

    Attributes:
        select: the kernel of a layer.
        kernels: every kernel it has.
    """

    exact = True
    loader = "transformers"
    rounds_experts = True
    """``DecompressExperts`` of transformers 5.17 expands them before the checkpoint is cast to what is asked for."""
    select: Select
    kernels: tuple[str, ...]

    def version(self) -> str:
        """Of torch."""
        return metadata.version("torch")

    def available(self) -> Ruling:
        """Whether torch is installed."""
        return LEGAL if find_spec("torch") else illegal("torch is not installed", self.name)

    def _place(self, device: str | None) -> tuple[str, torch.dtype]:
        """Torch's name of the device and the dtype of dense products there.

        Raises:
            EngineError: the device is not there.
        """
        raise NotImplementedError

    def operations(
        self, spec: ModelSpec, config: CompressionConfig, workload: Workload
    ) -> tuple[Operation, ...]:
        """See :meth:`Engine.operations`."""
        refuse_sharing(self.name, workload)
        return workload_operations(spec, config, workload, self.select)

    def kernel(self, operation: Operation, working_set_bytes: int) -> Kernel:
        """See :meth:`Engine.kernel`."""
        import torch

        from paretune.engines.working_set import build_kernel

        if operation.kernel not in self.kernels:
            raise EngineError(
                f"an operation of kernel {operation.kernel!r}",
                f"{self.name} has {', '.join(self.kernels)}",
                "Take operations from the engine that is to run them",
            )
        device, dtype = self._place(None)
        return build_kernel(operation, working_set_bytes, torch.device(device), dtype)

    def runtime(self, assembler: Assembler, config: CompressionConfig, device: str | None = None) -> Runtime:
        """See :meth:`Engine.runtime`."""
        from paretune.engines.runtime.torch_runtime import TorchRuntime

        place, dtype = self._place(device)
        selections = layer_selections(assembler.spec, config, self.select)
        return TorchRuntime(assembler, config, selections, place, dtype)

    def computes_in_float32(self, config: CompressionConfig) -> bool:
        """See :func:`paretune.engines.checkpoint.export.expanded_in_float32`."""
        return self.exact and expanded_in_float32(config)

    def export_ruling(self, spec: ModelSpec, config: CompressionConfig) -> Ruling:
        """See :meth:`Engine.export_ruling`."""
        return checkpoint_ruling(spec, config)

    def export(
        self, weights: Assembler | WeightProvider, config: CompressionConfig, folder: Path, card: ExportCard
    ) -> Path:
        """See :meth:`Engine.export`."""
        return export_checkpoint(weights, config, folder, card)

    def environment(self) -> Environment:
        """Exports are loaded by ``transformers``."""
        return checkpoint_environment()

    def launch_line(self, folder: Path) -> str:
        """Generate through ``transformers``, which decompresses the weights."""
        return generation_line(folder)

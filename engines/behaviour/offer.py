"""Runtimes that leave something out, on request: the engines themselves never offer one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paretune.engines.runtime.torch_runtime import TorchRuntime
from paretune.engines.torch_engine import TorchEngine
from paretune.engines.workload_operations import layer_selections
from paretune.spaces.behaviour import Behaviour
from paretune.spaces.configuration import CompressionConfig

if TYPE_CHECKING:
    from paretune.compressors.assembly import Assembler


def behaving_runtime(
    engine: TorchEngine,
    assembler: Assembler,
    config: CompressionConfig,
    behaviour: Behaviour | None = None,
    device: str | None = None,
) -> TorchRuntime:
    """The candidate as ``engine`` runs it, leaving out what ``behaviour`` says.

    Raises:
        EngineError: the model cannot leave it out (:func:`paretune.engines.behaviour.ruling.behaviour_ruling`), or the
            engine does not run on this machine or device.
    """
    place, dtype = engine._place(device)
    selections = layer_selections(assembler.spec, config, engine.select)
    return TorchRuntime(assembler, config, selections, place, dtype, behaviour)

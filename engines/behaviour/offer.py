"""Runtimes that leave something out, on request: the engines themselves never offer one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.runtime.torch_runtime import TorchRuntime
from engines.torch_engine import TorchEngine
from engines.workload_operations import site_selections
from spaces.behaviour import Behaviour
from spaces.configuration import CompressionConfig

if TYPE_CHECKING:
    from compressors.assembly import Assembler


def behaving_runtime(
    engine: TorchEngine,
    assembler: Assembler,
    config: CompressionConfig,
    behaviour: Behaviour | None = None,
    device: str | None = None,
) -> TorchRuntime:
    """The candidate as ``engine`` runs it, leaving out what ``behaviour`` says.

    Raises:
        EngineError: the model cannot leave it out (:func:`engines.behaviour.ruling.behaviour_ruling`), or the
            engine does not run on this machine or device.
    """
    place, dtype = engine._place(device)
    selections = site_selections(assembler.spec, config, engine.select)
    return TorchRuntime(assembler, config, selections, place, dtype, behaviour)

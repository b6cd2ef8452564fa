"""Where will it run? One line an engine; its package is imported when it is asked for.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module

from paretune.engines.engine import Engine
from paretune.engines.profiled_engine import ProfiledEngine
from paretune.spaces.errors import EngineError, UnknownNameError

_ENGINES = {
    "torch-cpu": "paretune.engines.torch_cpu_engine:TorchCpu",
    "torch": "paretune.engines.torch_gpu_engine:TorchDevice",
    "transformers": "paretune.engines.transformers_engine:Transformers",
    "vllm": "paretune.engines.vllm_engine:Vllm",
    "llama.cpp": "paretune.engines.llama_engine:LlamaCpp",
    "openvino": "paretune.engines.openvino_engine:OpenVino",
    "onnxruntime": "paretune.engines.onnxruntime_engine:OnnxRuntime",
}


def engine_names() -> tuple[str, ...]:
    """Every registered engine."""
    return tuple(_ENGINES)


def find_engine(name: str) -> Engine:
    """The engine called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in _ENGINES:
        raise UnknownNameError("engine", name, _ENGINES)
    module, _, attribute = _ENGINES[name].partition(":")
    engine = getattr(import_module(module), attribute)()
    if not isinstance(engine, Engine):
        raise TypeError(f"{_ENGINES[name]} is no Engine")
    return engine


def find_profiled_engine(name: str) -> ProfiledEngine:
    """The engine called ``name``, whose operations can be timed one by one.

    Raises:
        UnknownNameError: there is none.
        EngineError: it runs as a whole only.
    """
    engine = find_engine(name).profiled
    if engine is None:
        raise EngineError(
            f"engine {name}", "runs models as a whole and has no operations to time", "Use torch or torch-cpu"
        )
    return engine


__all__ = ["Engine", "ProfiledEngine", "engine_names", "find_engine", "find_profiled_engine"]

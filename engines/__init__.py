"""Where will it run? One line an engine; its package is imported when it is asked for.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from paretune.engines.engine import Engine
from paretune.engines.profiled_engine import ProfiledEngine
from paretune.spaces.errors import EngineError
from paretune.spaces.registry import Registry

ENGINES: Registry[Engine] = Registry(
    "engine",
    __name__,
    {
        "torch-cpu": "torch_cpu_engine:TorchCpu",
        "torch": "torch_gpu_engine:TorchDevice",
        "transformers": "transformers_engine:Transformers",
        "vllm": "vllm_engine:Vllm",
        "llama.cpp": "llama_engine:LlamaCpp",
        "openvino": "openvino_engine:OpenVino",
        "onnxruntime": "onnxruntime_engine:OnnxRuntime",
    },
)
engine_names, find_engine = ENGINES.names, ENGINES.find


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


__all__ = ["ENGINES", "Engine", "ProfiledEngine", "engine_names", "find_engine", "find_profiled_engine"]

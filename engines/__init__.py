"""Where will it run? One line an engine; its package is imported when it is asked for.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module

from engines.engine import Engine
from spaces.errors import UnknownNameError

_ENGINES = {
    "torch-cpu": "engines.torch_cpu:TorchCpu",
    "torch": "engines.torch_device:TorchDevice",
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


__all__ = ["Engine", "engine_names", "find_engine"]

"""From what a user types to a device: ``auto``, ``cpu`` or ``gpu`` of this machine, or one by name."""

from __future__ import annotations

from paretune.engines import Engine
from paretune.profiles.devices import detect_device, find_device
from paretune.spaces.errors import ConfigurationError, EngineError
from paretune.spaces.target import Device, Workload

LOCAL = ("auto", "cpu", "gpu")
TIMES = ("ttft_s", "tpot_s")
"""Metrics that take an engine on its device."""


def target_device(engine: Engine, name: str) -> Device:
    """The device that something is made for.

    Raises:
        EngineError: it is this machine's, and the engine does not run here.
        UnknownNameError: there is no such device.
    """
    return local_device(engine, name) if name in LOCAL else find_device(name)


def local_device(engine: Engine, name: str) -> Device:
    """The device of this machine that the engine runs on.

    Raises:
        EngineError: the engine does not run here.
        ConfigurationError: another device was named.
    """
    verdict = engine.available()
    if not verdict:
        remedy = "Install it, or name another engine"
        if engine.device_kind != "cpu":
            remedy += "; `paretune search --device h100` searches for a device that is not here"
        raise EngineError(f"engine {engine.name}", verdict.reason, remedy)
    if name in ("cpu", "gpu"):
        return detect_device("cpu" if name == "cpu" else "gpu")
    found = detect_device(engine.device_kind)
    if name not in ("auto", found.name):
        raise ConfigurationError(
            f"device {name!r}",
            f"a profile measures this machine, which is {found.name}",
            "Use --device auto; `paretune advise` answers for other devices",
        )
    return found


def why_untimed(engine: Engine, device: Device, workload: Workload) -> str:
    """Why candidates are not timed on this machine, and their times not predicted; empty where they are."""
    if engine.profiled is None and not engine.times_exports:
        return f"nothing predicts times of {engine.name}"
    if not engine.available():
        return f"{engine.name} is not on this machine"
    here = detect_device(engine.device_kind).name
    if here != device.name:
        return f"times are measured on the device itself, and this machine is no {device.name} but {here}"
    if engine.profiled is None and workload.batch != 1:
        return f"the runner of {engine.name} decodes one sequence, no batch of {workload.batch}"
    return ""

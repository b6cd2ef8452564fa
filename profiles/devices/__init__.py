"""Data sheets of devices: one JSON document of :class:`paretune.spaces.target.Device` a file, found by being here.

To add a device, write its file; ``source`` names the vendor's sheet. A card is recognised in a machine when
its ``label`` is the name that the driver gives it; one that is not gets lower bounds.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from paretune.profiles.devices.local_cpu import local_cpu
from paretune.profiles.devices.local_gpu import has_gpu, local_gpu_sheet
from paretune.spaces.errors import RunError, UnknownNameError
from paretune.spaces.files import FileKind, parse_document, read_bytes
from paretune.spaces.target import Device

__all__ = ["detect_device", "device_names", "find_device"]

_ALIASES = {
    "h100": "h100-sxm",
    "h200-sxm": "h200",
    "a100": "a100-80",
    "a100-sxm": "a100-80",
    "4090": "rtx-4090",
    "rtx4090": "rtx-4090",
}
"""What people type, for a card that comes in several builds: the usual one in servers."""


@cache
def _sheets() -> dict[str, Device]:
    kind = FileKind("data sheet", RunError, "Install Paretune again")
    files = Path(__file__).parent.glob("*.json")
    found = (parse_document(read_bytes(file, kind), Device, file, kind) for file in files)
    return {device.name: device for device in sorted(found, key=lambda device: (device.kind, device.name))}


def device_names() -> tuple[str, ...]:
    """Registered names; CPUs first, then GPUs."""
    return tuple(_sheets())


def find_device(name: str) -> Device:
    """The data sheet called ``name``; case, spaces and underscores do not matter, ``h100`` is ``h100-sxm``.

    Raises:
        UnknownNameError: there is none.
    """
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    found = _sheets().get(_ALIASES.get(key, key))
    if found is None:
        raise UnknownNameError("device", name, (*_sheets(), *_ALIASES))
    return found


def detect_device(kind: Literal["cpu", "gpu"] | None = None) -> Device:
    """The device of this machine.

    Args:
        kind: ``cpu`` or ``gpu``; ``None`` is the first GPU that CUDA shows this process, else the CPU.

    Raises:
        EngineError: a GPU was asked for and there is none.
    """
    if kind == "gpu" or (kind is None and has_gpu()):
        return local_gpu_sheet(tuple(_sheets().values()))
    return local_cpu()

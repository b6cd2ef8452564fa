"""Which data sheet the GPU of this machine has, by the name that its driver gives (NVML); torch stays out."""

from __future__ import annotations

import warnings
from typing import Any

from paretune.spaces.errors import EngineError, UnknownNameError
from paretune.spaces.target import Device

_DRIVER_NAMES = (
    # what the driver's name holds -> sheet; the first that matches. Labels are tried before these.
    (("H100", "HBM3"), "h100-sxm"),
    (("H100", "SXM"), "h100-sxm"),
    (("H100", "PCIe"), "h100-pcie"),
    (("H200",), "h200"),
    (("A100", "40GB"), "a100-40"),
    (("A100", "80GB"), "a100-80"),
    (("RTX 4090",), "rtx-4090"),
)


def local_gpu_name() -> str | None:
    """The driver's name of the first GPU, ``None`` without a driver or a GPU."""
    found = _first_gpu()
    return None if found is None else found[0]


def local_gpu_sheet(sheets: tuple[Device, ...]) -> Device:
    """The data sheet of the first GPU, with the memory that its driver reports.

    Raises:
        EngineError: there is no GPU.
        UnknownNameError: none of the sheets is this card's.
    """
    found = _first_gpu()
    if found is None:
        raise EngineError(
            "no GPU", "the driver shows none on this machine", "Name a device, or use the CPU of this machine"
        )
    name, memory_bytes = found
    sheet = match_sheet(name, sheets)
    return sheet.model_copy(update={"memory_bytes": memory_bytes})


def match_sheet(driver_name: str, sheets: tuple[Device, ...]) -> Device:
    """The sheet whose label is the driver's name, or that the driver's name is known for.

    Raises:
        UnknownNameError: none is.
    """
    by_label = {sheet.label: sheet for sheet in sheets if sheet.kind == "gpu"}
    if driver_name in by_label:
        return by_label[driver_name]
    by_name = {sheet.name: sheet for sheet in sheets}
    for parts, sheet in _DRIVER_NAMES:
        if all(part in driver_name for part in parts) and sheet in by_name:
            return by_name[sheet]
    raise UnknownNameError("device", driver_name, by_name)


def _first_gpu() -> tuple[str, int] | None:
    """Name and memory (bytes) of GPU 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a package of the same name warns when imported
        try:
            import pynvml
        except ImportError:
            return None
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        if nvml.nvmlDeviceGetCount() == 0:
            return None
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
        name = nvml.nvmlDeviceGetName(handle)
        return (name.decode() if isinstance(name, bytes) else str(name)), int(
            nvml.nvmlDeviceGetMemoryInfo(handle).total
        )
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()

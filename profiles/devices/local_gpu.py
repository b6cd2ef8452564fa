"""The GPU of this machine: the one that CUDA shows this process first, as its driver describes it (NVML; no torch).

A card that has a data sheet here is recognised by the name that its driver gives it. Any other gets a sheet of lower
bounds from what the driver says: memory and its bandwidth are the card's own, arithmetic is what every card of its
compute capability does at least.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from paretune.spaces.errors import EngineError
from paretune.spaces.target import Device

_DRIVER_NAMES = (
    # words of the driver's name -> sheet; the first that matches. Labels are tried before these.
    ({"H100", "HBM3"}, "h100-sxm"),
    ({"H100", "SXM"}, "h100-sxm"),
    ({"H100", "PCIe"}, "h100-pcie"),
    ({"H200"}, "h200"),
    ({"A100", "40GB"}, "a100-40"),
    ({"A100", "80GB"}, "a100-80"),
    ({"RTX", "4090"}, "rtx-4090"),
)
_GENERATIONS = (
    ((10, 0), "blackwell"), ((9, 0), "hopper"), ((8, 9), "ada"), ((8, 0), "ampere"), ((7, 5), "turing"),
    ((7, 0), "volta"),
)  # fmt: skip
"""Least compute capability of each (CUDA C++ programming guide)."""
_OTHER_BUILDS = {"NVL", "D", "Laptop", "Max", "MIG"}
"""Words of weaker cards, or parts of one, that otherwise have the name of a card with a sheet."""
_SLOW_LAUNCH_S = 5e-6


def local_gpu_sheet(sheets: tuple[Device, ...]) -> Device:
    """The data sheet of the first visible GPU, with the memory that its driver reports.

    Raises:
        EngineError: there is no GPU, or its driver does not say what it is.
    """
    with visible_gpu() as (nvml, handle):
        if handle is None:
            raise EngineError(
                "no GPU",
                "the driver shows this process none",
                "Name a device, or use the CPU of this machine",
            )
        try:
            name = _text(nvml.nvmlDeviceGetName(handle))
            memory_bytes = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
            sheet = match_sheet(name, sheets) or describe_gpu(nvml, handle, name, memory_bytes)
        except nvml.NVMLError as error:
            raise EngineError(
                "the GPU", f"is not described by its driver ({error})", "Name a device"
            ) from error
    if sheet not in sheets:
        _warn(sheet.label)
    return sheet.model_copy(update={"memory_bytes": memory_bytes})


def has_gpu() -> bool:
    """Whether the driver shows this process a GPU."""
    with visible_gpu() as (_, handle):
        return handle is not None


def match_sheet(driver_name: str, sheets: tuple[Device, ...]) -> Device | None:
    """The sheet whose label is the driver's name, or that the driver's name is known for; ``None``: neither is."""
    gpus = [sheet for sheet in sheets if sheet.kind == "gpu"]
    words = set(re.split(r"[\s-]+", re.sub(r"SXM\d", "SXM", driver_name)))
    known = (
        None
        if words & _OTHER_BUILDS
        else next((name for parts, name in _DRIVER_NAMES if parts <= words), None)
    )
    labelled = next((sheet for sheet in gpus if sheet.label == driver_name), None)
    return labelled or next((sheet for sheet in gpus if sheet.name == known), None)


def describe_gpu(nvml: Any, handle: Any, name: str, memory_bytes: int) -> Device:
    """A data sheet of lower bounds for a card that has none here.

    Single precision is cores x clock x 2; 16-bit products are at least twice as many from Ampere on, 8-bit ones twice
    as many again; memory moves two words a clock over its bus.
    """

    def ask(query: str, *about: Any, otherwise: Any) -> Any:
        # Drivers of virtual cards and of parts of a card do not say everything.
        try:
            return getattr(nvml, query)(handle, *about)
        except nvml.NVMLError:
            return otherwise

    capability = tuple(ask("nvmlDeviceGetCudaComputeCapability", otherwise=(7, 0)))
    generation = next((name for least, name in _GENERATIONS if capability >= least), "older")
    clock_hz = 1e6 * ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM, otherwise=1000)
    peak = {"fp32": 2.0 * clock_hz * ask("nvmlDeviceGetNumGpuCores", otherwise=1024)}
    if capability >= (8, 0):
        peak["bf16"] = 2 * peak["fp32"]
    if capability >= (7, 5):
        peak["int8"] = 4 * peak["fp32"]
    if capability >= (8, 9):
        peak["fp8"] = 4 * peak["fp32"]
    memory_hz = 1e6 * ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM, otherwise=5000)
    bus_bits = ask("nvmlDeviceGetMemoryBusWidth", otherwise=128)
    return Device(
        name=re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"), label=name, kind="gpu", generation=generation,
        memory_bytes=memory_bytes, bandwidth_bytes_per_s=2 * memory_hz * bus_bits / 8, cache_bytes=0,
        peak_operations_per_s=peak, launch_s=_SLOW_LAUNCH_S,
        source="no data sheet here: lower bounds from what the driver says; nothing was measured",
    )  # fmt: skip


@contextmanager
def visible_gpu(environ: Mapping[str, str] = os.environ) -> Iterator[tuple[Any, Any]]:
    """NVML and its handle of the first GPU that ``CUDA_VISIBLE_DEVICES`` leaves; both ``None`` without a driver.

    NVML counts in the order of the bus, CUDA by speed unless ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` is set: numbers mean the
    same where all cards are of one kind.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a package of the same name warns when imported
        try:
            import pynvml
        except ImportError:
            pynvml = None
    nvml: Any = pynvml
    try:
        if nvml is not None:
            nvml.nvmlInit()
    except nvml.NVMLError:
        nvml = None
    if nvml is None:
        yield None, None
        return
    try:
        yield nvml, first_visible(nvml, environ.get("CUDA_VISIBLE_DEVICES"))
    finally:
        nvml.nvmlShutdown()


def first_visible(nvml: Any, visible: str | None) -> Any:
    """The handle of the first GPU of a ``CUDA_VISIBLE_DEVICES``: numbers, or beginnings of UUIDs; ``None``: no GPU."""
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        if visible is None:
            return handles[0] if handles else None
        first = visible.split(",")[0].strip()
        if first.isdecimal():
            return handles[int(first)] if int(first) < len(handles) else None
        if first.startswith("MIG-"):
            return nvml.nvmlDeviceGetHandleByUUID(first)
        uuids = ((handle, _text(nvml.nvmlDeviceGetUUID(handle))) for handle in handles)
        return next((handle for handle, uuid in uuids if first and uuid.startswith(first)), None)
    except nvml.NVMLError:
        return None


def _text(found: str | bytes) -> str:
    return found.decode() if isinstance(found, bytes) else found


@cache
def _warn(label: str) -> None:
    """Once a process."""
    logging.getLogger("paretune").warning(
        "%s has no data sheet here: its times are estimated from lower bounds that its driver gives", label
    )

"""Measures energy where the machine counts it: NVML's total energy of a GPU, RAPL's packages of a CPU.

Where neither can be read there is no figure; none is made up from a data sheet. Counters: NVML
``nvmlDeviceGetTotalEnergyConsumption`` (mJ since the driver was loaded, Volta and newer); Linux
``/sys/class/powercap/intel-rapl:N/energy_uj`` (µJ, wraps at ``max_energy_range_uj``; on most systems root
alone may read it). Both count everything that runs there, not this process alone, and what the device draws when
it is idle; :attr:`EnergyMeter.by` says so. Counters move every 20 to 100 ms, so stretches should last a second or more.
"""

from __future__ import annotations

import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paretune.profiles.devices.local_gpu import first_visible

RAPL = Path("/sys/class/powercap")


@dataclass
class EnergyReading:
    """Filled when the measured stretch ends.

    Attributes:
        joules: spent; ``None`` where nothing counts it.
        seconds: that it took.
        by: counter.
    """

    joules: float | None = None
    seconds: float = 0.0
    by: str = ""


class Counter(ABC):
    """A counter of energy that only grows."""

    name: str

    @abstractmethod
    def joules(self) -> float:
        """Since some moment in the past."""


class EnergyMeter:
    """Measures stretches of work.

    Args:
        kind: ``gpu`` or ``cpu``.
        rapl: folder of the powercap interface.

    Attributes:
        counter: ``None`` where nothing can be read; :attr:`reason` says why.
    """

    def __init__(self, kind: Literal["gpu", "cpu"], rapl: Path = RAPL) -> None:
        self.reason = ""
        self.counter: Counter | None = None
        try:
            self.counter = NvmlCounter() if kind == "gpu" else RaplCounter(rapl)
        except (OSError, ImportError, RuntimeError) as error:
            self.reason = f"{'NVML' if kind == 'gpu' else 'RAPL'}: {error}"

    @property
    def by(self) -> str:
        """Which counter, and what it includes."""
        return "" if self.counter is None else f"{self.counter.name}, idle power included"

    @property
    def available(self) -> bool:
        """Whether energy can be measured here."""
        return self.counter is not None

    @contextmanager
    def measure(self) -> Iterator[EnergyReading]:
        """Measure what happens inside; the reading is filled at the end."""
        reading = EnergyReading(by=self.by)
        before = self._read()
        start = time.perf_counter()
        yield reading
        reading.seconds = time.perf_counter() - start
        after = self._read()
        if before is not None and after is not None:
            reading.joules = after - before

    def _read(self) -> float | None:
        """The counter; ``None`` from its first failure on, as after a reset of the driver."""
        if self.counter is None:
            return None
        try:
            return self.counter.joules()
        except (OSError, ValueError, RuntimeError) as error:
            self.reason, self.counter = f"{self.counter.name} stopped: {error}", None
            logging.getLogger("paretune").warning("energy is measured no more: %s", self.reason)
            return None


class RaplCounter(Counter):
    """All packages of the machine.

    Raises:
        OSError: there are none, or they may not be read.
    """

    name = "rapl"

    def __init__(self, folder: Path = RAPL) -> None:
        self._domains = sorted(
            path for path in folder.glob("intel-rapl:*") if path.name.count(":") == 1 and _package(path)
        )
        if not self._domains:
            raise FileNotFoundError(f"no package below {folder}")
        self._range = {path: _read(path / "max_energy_range_uj") for path in self._domains}
        self._last = {path: _read(path / "energy_uj") for path in self._domains}
        self._total = 0

    def joules(self) -> float:
        """Since this counter was made; asked at least once a wrap (minutes at full power)."""
        for path, before in self._last.items():
            now = _read(path / "energy_uj")
            self._total += now - before if now >= before else now - before + self._range[path]
            self._last[path] = now
        return self._total / 1e6


class NvmlCounter(Counter):
    """The first GPU that CUDA shows this process.

    Raises:
        ImportError: no NVML binding.
        RuntimeError: no driver, no GPU, or one that does not count.
    """

    name = "nvml"

    def __init__(self) -> None:
        import pynvml

        self._nvml: Any = pynvml
        try:
            self._nvml.nvmlInit()
            self._handle = first_visible(self._nvml, os.environ.get("CUDA_VISIBLE_DEVICES"))
        except self._nvml.NVMLError as error:
            raise RuntimeError(str(error)) from error
        if self._handle is None:
            raise RuntimeError("the driver shows this process no GPU")
        self.joules()

    def joules(self) -> float:
        """Since the driver was loaded."""
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError as error:
            raise RuntimeError(str(error)) from error


def _package(path: Path) -> bool:
    name = path / "name"
    return name.is_file() and name.read_text(encoding="utf-8").startswith("package")


def _read(path: Path) -> int:
    return int(path.read_text(encoding="utf-8"))

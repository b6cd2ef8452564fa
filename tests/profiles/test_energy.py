"""Energy: counters that move by a known amount, wrap, or are not there."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from paretune.profiles.energy import EnergyMeter


def package(folder: Path, index: int, microjoules: int, name: str = "package-0") -> Path:
    domain = folder / f"intel-rapl:{index}"
    domain.mkdir(parents=True, exist_ok=True)
    (domain / "name").write_text(f"{name}\n")
    (domain / "energy_uj").write_text(f"{microjoules}\n")
    (domain / "max_energy_range_uj").write_text("10000000\n")
    return domain


def test_a_known_amount(tmp_path):
    first, second = package(tmp_path, 0, 1_000_000), package(tmp_path, 1, 500_000, "package-1")
    package(tmp_path, 2, 0, "psys")  # the whole board counts the packages again
    (tmp_path / "intel-rapl:0" / "intel-rapl:0:0").mkdir()
    meter = EnergyMeter("cpu", tmp_path)
    assert meter.available
    with meter.measure() as reading:
        (first / "energy_uj").write_text("3000000")
        (second / "energy_uj").write_text("1000000")
        (tmp_path / "intel-rapl:2" / "energy_uj").write_text("9000000")
    assert reading.joules == pytest.approx(2.5)
    assert reading.by == "rapl, idle power included"
    assert reading.seconds > 0


def test_a_counter_that_wraps(tmp_path):
    domain = package(tmp_path, 0, 9_000_000)
    meter = EnergyMeter("cpu", tmp_path)
    with meter.measure() as reading:
        (domain / "energy_uj").write_text("1500000")
    assert reading.joules == pytest.approx(2.5)


def test_where_nothing_counts_there_is_no_figure(tmp_path):
    meter = EnergyMeter("cpu", tmp_path)
    assert not meter.available
    assert "no package" in meter.reason
    with meter.measure() as reading:
        pass
    assert reading.joules is None
    assert reading.seconds > 0


def test_a_counter_that_may_not_be_read(tmp_path, monkeypatch):
    package(tmp_path, 0, 1)

    def refuse(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("paretune.profiles.energy._read", refuse)
    meter = EnergyMeter("cpu", tmp_path)
    assert not meter.available
    assert "Permission denied" in meter.reason


def fake_nvml(readings: list[int], works: bool = True) -> types.ModuleType:
    module = types.ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def init() -> None:
        if not works:
            raise NVMLError("driver not loaded")

    module.NVMLError = NVMLError
    module.nvmlInit = init
    module.nvmlDeviceGetCount = lambda: 1
    module.nvmlDeviceGetHandleByIndex = lambda index: index

    def energy(handle: int) -> int:
        if not readings:
            raise NVMLError("GPU is lost")
        return readings.pop(0)

    module.nvmlDeviceGetTotalEnergyConsumption = energy
    return module


def test_a_gpu_counts_millijoules(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([5, 1_000, 3_500]))
    meter = EnergyMeter("gpu")
    with meter.measure() as reading:
        pass
    assert reading.joules == pytest.approx(2.5)
    assert reading.by == "nvml, idle power included"


def test_a_counter_that_stops_while_measuring_is_told_and_ends_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([5, 1_000]))
    meter = EnergyMeter("gpu")
    with meter.measure() as reading:
        pass
    assert reading.joules is None
    assert not meter.available
    assert "GPU is lost" in meter.reason


def test_a_machine_without_a_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([], works=False))
    meter = EnergyMeter("gpu")
    assert not meter.available
    assert "driver not loaded" in meter.reason


@pytest.mark.gpu
def test_a_real_gpu_uses_energy():
    meter = EnergyMeter("gpu")
    if not meter.available:
        pytest.skip(meter.reason)
    import torch

    if not torch.cuda.is_available():
        pytest.skip("this build of torch has no CUDA")
    matrix = torch.randn(4096, 4096, device="cuda")
    with meter.measure() as reading:
        for _ in range(200):
            matrix = (matrix @ matrix).clamp(-1, 1)
        torch.cuda.synchronize()
    assert reading.joules is not None
    assert 0 < reading.joules < 1000 * max(1.0, reading.seconds)

"""Data sheets: a contract for every file, names that people type, and what is read of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import paretune.profiles.devices as package
from paretune.profiles.devices import detect_device, device_names, find_device
from paretune.profiles.devices.local_cpu import CpuFacts, describe_cpu, read_facts
from paretune.profiles.devices.local_gpu import first_visible, match_sheet
from paretune.spaces.errors import UnknownNameError
from paretune.spaces.target import Device

SHEETS = tuple(find_device(name) for name in device_names())
ARITHMETIC = {"fp32", "bf16", "fp8", "int8", "int4"}


def test_the_devices_that_are_promised():
    promised = {"h100-sxm", "h100-pcie", "h200", "a100-40", "a100-80", "l4", "rtx-4090"}
    assert promised | {"x86-avx2", "x86-avx512", "x86-amx"} <= set(device_names())


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.name)
def test_contract(sheet: Device):
    file = Path(package.__file__).parent / f"{sheet.name}.json"
    assert json.loads(file.read_text())["name"] == sheet.name
    peaks = sheet.peak_operations_per_s
    assert set(peaks) <= ARITHMETIC
    assert peaks["fp32"] > 0
    assert all(peaks["fp32"] <= peak for peak in peaks.values()), "narrow types are never slower"
    assert peaks.get("int8", 0) >= peaks.get("bf16", 0)
    assert 2**30 <= sheet.memory_bytes < 2**43
    assert 10e9 < sheet.bandwidth_bytes_per_s < 20e12
    assert sheet.cache_bytes < sheet.memory_bytes
    assert 0 < sheet.launch_s < 1e-4
    assert sheet.source
    assert ("fp8" in peaks) == (sheet.generation in ("hopper", "ada")), (
        "FP8 products came with Ada and Hopper"
    )
    assert Device.from_json(sheet.to_json()) == sheet


@pytest.mark.parametrize(
    ("typed", "name"), [("H100", "h100-sxm"), ("rtx 4090", "rtx-4090"), ("A100_40", "a100-40"), ("l4", "l4")]
)
def test_names_that_people_type(typed, name):
    assert find_device(typed).name == name


def test_unknown_device_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'h200'"):
        find_device("h20")


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
    ],
)
def test_a_card_is_known_by_the_name_of_its_driver(driver, name):
    assert match_sheet(driver, SHEETS).name == name


@pytest.mark.parametrize(
    "driver",
    ["NVIDIA L40S", "NVIDIA GH200 480GB", "NVIDIA B200", "NVIDIA H100 NVL", "NVIDIA GeForce RTX 4090 Laptop GPU",
     "NVIDIA GeForce RTX 4090 D", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "Tesla T4"],
)  # fmt: skip
def test_a_card_without_a_sheet_is_not_taken_for_another(driver):
    assert match_sheet(driver, SHEETS) is None


def fake_nvml(names: tuple[str, ...], silent: bool = False) -> types.ModuleType:
    """A driver of cards like an L40S; ``silent``: as drivers of parts of a card are."""
    module = types.ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def said(value: object) -> Callable[..., object]:
        def answer(*about: object) -> object:
            if silent:
                raise NVMLError("not supported")
            return value

        return answer

    module.NVMLError = NVMLError
    module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM = 1, 2
    module.nvmlInit = module.nvmlShutdown = lambda: None
    module.nvmlDeviceGetCount = lambda: len(names)
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlDeviceGetUUID = lambda index: f"GPU-{index}abc"
    module.nvmlDeviceGetName = lambda index: names[index]
    module.nvmlDeviceGetMemoryInfo = lambda index: types.SimpleNamespace(total=48 * 2**30)
    module.nvmlDeviceGetCudaComputeCapability = said((8, 9))
    module.nvmlDeviceGetMaxClockInfo = lambda index, clock: said({1: 2520, 2: 9001}[clock])()
    module.nvmlDeviceGetNumGpuCores = said(18176)
    module.nvmlDeviceGetMemoryBusWidth = said(384)
    return module


def test_an_unknown_card_gets_lower_bounds_and_a_warning(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(("NVIDIA L40S",)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    sheet = detect_device()
    assert (sheet.name, sheet.generation, sheet.memory_bytes) == ("nvidia-l40s", "ada", 48 * 2**30)
    # The vendor's sheet: 864 GB/s, 91.6 and 183 (bf16, 362 with 16-bit sums) Tflop/s, 733 of 8 bits.
    assert sheet.bandwidth_bytes_per_s == pytest.approx(864e9, rel=0.01)
    assert sheet.peak_operations_per_s["fp32"] == pytest.approx(91.6e12, rel=0.01)
    assert sheet.peak_operations_per_s["fp8"] <= 733e12
    assert "lower bounds" in sheet.source
    assert "no data sheet" in caplog.text


def test_a_card_that_says_nothing_still_has_a_sheet(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(("NVIDIA H100 80GB HBM3 MIG 1g.10gb",), silent=True))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    sheet = detect_device("gpu")
    assert sheet.peak_operations_per_s["fp32"] > 0
    assert sheet.name != "h100-sxm"


@pytest.mark.parametrize(
    ("visible", "index"),
    [(None, 0), ("1", 1), ("1,0", 1), ("GPU-1", 1), ("", None), ("-1", None), ("7", None), ("GPU-9", None)],
)
def test_what_cuda_is_shown_is_respected(visible, index):
    assert first_visible(fake_nvml(("NVIDIA L4", "NVIDIA H200")), visible) == index


def test_a_new_sheet_is_matched_by_its_label():
    sheet = SHEETS[-1].model_copy(update={"name": "new", "label": "NVIDIA New"})
    assert match_sheet("NVIDIA New", (*SHEETS, sheet)).name == "new"


def facts(*flags: str, machine: str = "x86_64") -> CpuFacts:
    return CpuFacts("Some(R) CPU @ 2.00GHz", machine, frozenset(flags), 4, 2e9, 2**34, 2**25)


@pytest.mark.parametrize(
    ("flags", "generation", "fp32", "int8"),
    [
        (("avx2", "fma", "avx512_vnni", "amx_int8"), "x86-amx", 64, 2048),
        (("avx2", "fma", "avx512_vnni"), "x86-avx512", 64, 256),
        (("avx2", "fma"), "x86-avx2", 32, 128 / 3),
    ],
)
def test_a_cpu_is_described_by_its_flags(flags, generation, fp32, int8):
    device = describe_cpu(facts(*flags))
    assert device.generation == generation
    assert device.peak_operations_per_s["fp32"] == pytest.approx(fp32 * 4 * 2e9)
    assert device.peak_operations_per_s["int8"] == pytest.approx(int8 * 4 * 2e9)
    assert device.source.startswith("estimated")
    assert device.name == "cpu-some-cpu-2-00ghz-4c"
    assert device.bandwidth_bytes_per_s == 48e9


def test_an_unknown_processor_promises_little():
    assert set(describe_cpu(facts()).peak_operations_per_s) == {"fp32"}


def test_facts_are_read_from_the_kernel(tmp_path):
    cache = tmp_path / "sys/devices/system/cpu/cpu0/cache"
    for index, size in enumerate(("48K", "2048K", "30M")):
        (cache / f"index{index}").mkdir(parents=True)
        (cache / f"index{index}/size").write_text(f"{size}\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "model name\t: A CPU @ 2.60GHz\nflags\t\t: fma avx2\ncpu MHz\t\t: 3111.2\n\nmodel name\t: second\n"
    )
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("100000 100000\n")
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("1000000\n")
    found = read_facts(tmp_path)
    assert found.model == "A CPU @ 2.60GHz"
    assert found.flags == {"fma", "avx2"}
    assert found.frequency_hz == 2.6e9
    assert (found.cores, found.memory_bytes, found.cache_bytes) == (1, 1_000_000, 30 * 2**20)


def test_the_processor_here_is_the_same_every_time():
    first = detect_device("cpu")
    assert first.kind == "cpu"
    assert first == describe_cpu(read_facts())


def test_looking_at_devices_loads_no_torch():
    program = "import sys, paretune.profiles.devices as d; d.detect_device(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

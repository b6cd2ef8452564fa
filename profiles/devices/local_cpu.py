"""The CPU of this machine as a :class:`~paretune.spaces.target.Device`: what the kernel says x operations per cycle.

Every figure is an estimate and ``source`` says so; ``paretune profile`` measures. Operations a cycle and core
are those of server cores (Intel optimization manual; AMX: 4th-generation Xeon overview): two FMA units of the
widest vectors, VNNI or AMX where the flags show them. Nothing is timed here, so that the same machine is the
same device in every run.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from paretune.spaces.target import Device

_OPERATIONS_PER_CYCLE = {
    # generation: arithmetic -> operations per cycle and core (a multiply-add is two)
    "x86-amx": {"fp32": 64.0, "bf16": 1024.0, "int8": 2048.0},
    "x86-avx512": {"fp32": 64.0, "int8": 256.0},
    "x86-avx2": {"fp32": 32.0, "int8": 128.0 / 3},
    "x86": {"fp32": 8.0},
    "aarch64": {"fp32": 16.0},
}
_SOCKET_BANDWIDTH = {"x86-amx": 307.2e9, "x86-avx512": 204.8e9}
_DESKTOP_BANDWIDTH = 51.2e9
_CORE_BANDWIDTH = 12e9
"""What one core can draw from memory, roughly; a virtual machine with few cores gets no more."""


@dataclass(frozen=True)
class CpuFacts:
    """What the operating system says about the CPU."""

    model: str
    machine: str
    flags: frozenset[str]
    cores: int
    frequency_hz: float
    memory_bytes: int
    cache_bytes: int


@cache
def local_cpu() -> Device:
    """The CPU of this machine: the cores that this process may use, and the memory that it may have."""
    return describe_cpu(read_facts())


def describe_cpu(facts: CpuFacts) -> Device:
    """A data sheet made of estimates."""
    generation = _generation(facts)
    cycles = facts.cores * facts.frequency_hz
    peak = {name: count * cycles for name, count in _OPERATIONS_PER_CYCLE[generation].items()}
    if "avx512_bf16" in facts.flags and "bf16" not in peak:
        peak["bf16"] = 2 * peak["fp32"]
    socket = _SOCKET_BANDWIDTH.get(generation, _DESKTOP_BANDWIDTH)
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((?:R|TM)\)", "", facts.model).lower()).strip("-")
    return Device(
        name=f"cpu-{slug or facts.machine}-{facts.cores}c",
        label=f"{facts.model or facts.machine}, {facts.cores} cores",
        kind="cpu",
        generation=generation,
        memory_bytes=facts.memory_bytes,
        bandwidth_bytes_per_s=min(socket, facts.cores * _CORE_BANDWIDTH),
        cache_bytes=facts.cache_bytes,
        peak_operations_per_s=peak,
        launch_s=5e-6,
        source=f"estimated: {facts.cores} cores x {facts.frequency_hz / 1e9:.2f} GHz x operations per cycle of "
        f"{generation}; bandwidth 12 GB/s per core, at most {socket / 1e9:g} GB/s; nothing was measured",
    )


def _generation(facts: CpuFacts) -> str:
    if "amx_int8" in facts.flags:
        return "x86-amx"
    if "avx512_vnni" in facts.flags:
        return "x86-avx512"
    if "avx2" in facts.flags and "fma" in facts.flags:
        return "x86-avx2"
    return "aarch64" if facts.machine in ("aarch64", "arm64") else "x86"


def read_facts(root: Path = Path("/")) -> CpuFacts:
    """From ``/proc`` and ``/sys`` below ``root``; what they do not say is asked of Python."""
    fields = _cpuinfo(root / "proc/cpuinfo")
    return CpuFacts(
        model=fields.get("model name", platform.processor()),
        machine=platform.machine(),
        flags=frozenset(fields.get("flags", fields.get("Features", "")).split()),
        cores=_cores(root),
        frequency_hz=_frequency(root, fields),
        memory_bytes=_memory(root),
        cache_bytes=_last_level_cache(root),
    )


def _cpuinfo(path: Path) -> dict[str, str]:
    """The fields of the first processor."""
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _frequency(root: Path, fields: dict[str, str]) -> float:
    """Base frequency; only where nothing states it, the momentary one, rounded so that it stays the same."""
    base_khz = _number(root / "sys/devices/system/cpu/cpu0/cpufreq/base_frequency")
    if base_khz is not None:
        return base_khz * 1e3
    stated = re.search(r"@\s*([\d.]+)\s*GHz", fields.get("model name", ""))
    if stated is not None:
        return float(stated[1]) * 1e9
    return round(float(fields.get("cpu MHz") or 2500.0), -2) * 1e6


def _number(path: Path) -> int | None:
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def _cores(root: Path) -> int:
    """Cores that this process may use: its affinity, and the quota of its control group."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = root / "sys/fs/cgroup/cpu.max"
    if quota.is_file():
        limit, _, period = quota.read_text(encoding="utf-8").strip().partition(" ")
        if limit.isdigit() and period.isdigit():
            cores = min(cores, max(1, round(int(limit) / int(period))))
    return max(1, cores)


def _memory(root: Path) -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _number(root / "sys/fs/cgroup/memory.max")
    return total if limit is None else min(total, limit)


def _last_level_cache(root: Path) -> int:
    """The largest cache of the first core; 0 where the kernel does not say."""
    sizes = [0]
    for file in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        match = re.fullmatch(r"(\d+)([KM]?)", file.read_text(encoding="utf-8").strip())
        if match:
            sizes.append(int(match[1]) * {"": 1, "K": 2**10, "M": 2**20}[match[2]])
    return max(sizes)

"""An engine made of sleeps, models of the sizes people ask about, a device with round numbers."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from paretune.engines.operation import Operation
from paretune.profiles.table import CostRow, CostTable
from paretune.spaces.architectures import read_model
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.model import ModelSpec
from paretune.spaces.target import Device, Workload

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "models"

ROUND = Device(
    name="round",
    label="Round numbers",
    kind="gpu",
    generation="hopper",
    memory_bytes=10**11,
    bandwidth_bytes_per_s=1e12,
    cache_bytes=10**6,
    peak_operations_per_s={"fp32": 1e13, "bf16": 1e14, "int8": 2e14, "fp8": 2e14},
    launch_s=1e-6,
    source="a test",
)

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
SIZES = {
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}


def llama_folder(size: str, folder: Path) -> Path:
    """A folder with the ``config.json`` of Llama 3.1 8B or 70B and nothing else."""
    (folder / "config.json").write_text(json.dumps({**_LLAMA, **SIZES[size]}))
    return folder


def llama(size: str, folder: Path) -> ModelSpec:
    return read_model(llama_folder(size, folder), source=f"llama-{size}")


def linear(m: int, n: int, k: int, kernel: str = "fp32", **changes: object) -> Operation:
    phase = "decode" if m == 1 else "prefill"
    return Operation("linear", phase, kernel, m, n, k, **changes)  # type: ignore[arg-type]


def row(operation: Operation, seconds: float, device: str = "round", version: str = "1") -> CostRow:
    return CostRow(device=device, engine="fake", engine_version=version, operation=operation, seconds=seconds)


def table(costs: dict[Operation, float]) -> CostTable:
    return CostTable(rows=tuple(row(operation, seconds) for operation, seconds in costs.items()))


@dataclass
class FakeEngine:
    """Kernels sleep for ``n`` milliseconds; operations are one product a block, twice as many in prefill.

    Attributes:
        calls: operations in the order in which their kernels ran.
        built: operation and working set of every kernel.
    """

    name: str = "fake"
    calls: list[Operation] = field(default_factory=list)
    built: list[tuple[Operation, int]] = field(default_factory=list)

    def version(self) -> str:
        return "1"

    def kernel(self, operation: Operation, working_set_bytes: int):
        self.built.append((operation, working_set_bytes))

        def run() -> None:
            self.calls.append(operation)
            time.sleep(operation.n / 1e3)

        return run

    def operations(
        self, spec: ModelSpec, config: CompressionConfig, workload: Workload
    ) -> tuple[Operation, ...]:
        blocks = sum(config.keeps_block(block) for block in range(spec.blocks))
        narrow = any(not choice.weight.dense for choice in config.layers.values())
        kernel, note = ("int4", "") if narrow else ("fp32", "a note" if config.layers else "")
        rows = workload.batch * workload.prompt_tokens
        return (
            Operation("linear", "prefill", kernel, rows, 64, 64, 2 * blocks, note=note),
            Operation("linear", "decode", kernel, workload.batch, 64, 64, blocks, note=note),
        )

"""Asks vLLM's kernels of packed integers what they take: ``python vllm_kernels.py engines/vllm/kernels.json``.

Needs vLLM (built for CUDA; no GPU) and nothing of ours. For every compute capability, each kernel that
``choose_mp_linear_kernel`` tries, in its order, is asked by its own ``can_implement`` about every type of weights and
group size, on a grid of rows and columns; what it takes is written as the steps that rows and columns must be multiples
of, after the whole grid has been found to follow them. Inputs are bfloat16; a group size of -1 is a scale a row.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

CAPABILITIES = (80, 86, 89, 90, 100, 120)
GROUPS = (-1, 16, 32, 64, 128, 256)
STEPS = tuple(1 << i for i in range(10))
_GRID = sorted({step * odd for step in STEPS for odd in (1, 3, 5)} | {576, 960, 1000, 2720})
_WHOLE = 1 << 20


def main(path: Path) -> None:
    """Write the table."""
    import vllm
    from vllm.model_executor.kernels import linear
    from vllm.model_executor.kernels.linear.mixed_precision import humming
    from vllm.platforms import PlatformEnum
    from vllm.platforms.interface import DeviceCapability

    humming.has_humming = lambda: True  # vLLM for CUDA requires it, and it cannot be imported without a GPU
    table: list[dict[str, Any]] = []
    for capability in CAPABILITIES:
        _pretend(DeviceCapability(*divmod(capability, 10)))
        kernels = [
            {"kernel": kernel.__name__, "takes": taken}
            for kernel in linear._POSSIBLE_KERNELS[PlatformEnum.CUDA]  # the order of choose_mp_linear_kernel
            if kernel.get_min_capability() <= capability and (taken := _taken(kernel))
        ]
        if table and table[-1]["kernels"] == kernels:
            table[-1]["capabilities"].append(capability)
        else:
            table.append({"capabilities": [capability], "kernels": kernels})
    head = json.dumps({"vllm": vllm.__version__, "inputs": "bfloat16"})[:-1]
    rows = [
        f'{{"capabilities": {entry["capabilities"]}, "kernels": [\n'
        + ",\n".join(
            _line(kernel["kernel"], taken) for kernel in entry["kernels"] for taken in kernel["takes"]
        )
        + "\n]}"
        for entry in table
    ]
    path.write_text(f'{head}, "table": [\n' + ",\n".join(rows) + "\n]}\n", encoding="utf-8")


def _line(kernel: str, taken: dict[str, Any]) -> str:
    return json.dumps({"kernel": kernel, **taken})


def _pretend(capability: Any) -> None:
    """Let vLLM believe that it is on a GPU of this compute capability."""
    import vllm.platforms
    from vllm.platforms import PlatformEnum

    platform = type(vllm.platforms.current_platform)
    platform._enum = PlatformEnum.CUDA
    platform.get_device_capability = staticmethod(lambda *_, **__: capability)
    whole = capability.major * 10 + capability.minor
    for name, rule in {
        "has_device_capability": lambda wanted: whole >= wanted,
        "is_device_capability": lambda wanted: whole == wanted,
        "is_device_capability_family": lambda wanted: whole // 10 == wanted // 10,
    }.items():
        said = staticmethod(lambda wanted, *_, rule=rule, **__: rule(_number(wanted)))
        setattr(platform, name, said)


def _number(capability: Any) -> int:
    return capability[0] * 10 + capability[1] if isinstance(capability, tuple) else int(capability)


def _taken(kernel: Any) -> list[dict[str, Any]]:
    """Types and group sizes that a kernel takes, and the steps of rows and columns."""
    from vllm.model_executor.layers.quantization.compressed_tensors.schemes import compressed_tensors_wNa16

    symmetric = compressed_tensors_wNa16.WNA16_SUPPORTED_TYPES_MAP
    shifted = compressed_tensors_wNa16.WNA16_ZP_SUPPORTED_TYPES_MAP
    sizes: dict[tuple[int, bool, int, int], list[int]] = {}
    asked = [(False, item) for item in symmetric.items()] + [(True, item) for item in shifted.items()]
    for (zero_points, (bits, weights)), size in product(asked, GROUPS):
        if _takes(kernel, weights, zero_points, size, _WHOLE, _WHOLE):
            steps = _steps(kernel, weights, zero_points, size)
            sizes.setdefault((bits, zero_points, *steps), []).append(size)
    widths: dict[tuple[Any, ...], list[int]] = {}
    for (bits, zero_points, rows, columns), those in sizes.items():
        widths.setdefault((zero_points, tuple(those), rows, columns), []).append(bits)
    return [
        {"bits": bits, "zero_points": zero, "group_sizes": list(those), "rows": rows, "columns": columns}
        for (zero, those, rows, columns), bits in widths.items()
    ]


def _steps(kernel: Any, weights: Any, zero_points: bool, size: int) -> tuple[int, int]:
    """The least multiples of rows, and of columns beside the group size.

    Raises:
        ValueError: the kernel has another rule than multiples.
    """
    rows = min(step for step in STEPS if _takes(kernel, weights, zero_points, size, step, _WHOLE))
    columns = min(
        step
        for step in STEPS
        if step % max(size, 1) == 0 and _takes(kernel, weights, zero_points, size, _WHOLE, step)
    )
    # A group must lie within a device's columns whatever the kernel: that is no step of the kernel's.
    for r, c in product(_GRID, [value for value in _GRID if value % max(size, 1) == 0]):
        if _takes(kernel, weights, zero_points, size, r, c) != (r % rows == 0 and c % columns == 0):
            raise ValueError(
                f"{kernel.__name__}: {weights}, groups of {size}: {r} x {c} breaks {rows}, {columns}"
            )
    return rows, 1 if columns == size else columns


def _takes(kernel: Any, weights: Any, zero_points: bool, size: int, rows: int, columns: int) -> bool:
    import torch
    from vllm.model_executor.kernels.linear import MPLinearLayerConfig

    asked = MPLinearLayerConfig(
        full_weight_shape=(columns, rows),
        partition_weight_shape=(columns, rows),
        weight_type=weights,
        act_type=torch.bfloat16,
        group_size=size,
        zero_points=zero_points,
        has_g_idx=False,
    )
    return bool(kernel.can_implement(asked)[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))

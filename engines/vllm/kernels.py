"""Which kernel vLLM 0.26 gives packed integers, by compute capability, type, group size and shape.

``kernels.json`` holds what ``can_implement`` of every kernel answered, in the order in which vLLM's
``choose_mp_linear_kernel`` asks them; ``benchmarks/vllm_kernels.py`` makes it inside vLLM. What a kernel accepts there
and then fails on is not in the table: :func:`humming_ruling`.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from paretune.spaces.formats import WeightFormat
from paretune.spaces.legality import LEGAL, Ruling, illegal

HUMMING = "HummingLinearKernel"
_STEP = 8
_HUMMING = "humming 0.1.10: kernel/humming.py"


@cache
def _table() -> dict[int, list[dict[str, Any]]]:
    text = files(__package__).joinpath("kernels.json").read_text(encoding="utf-8")
    entries = json.loads(text)["table"]
    return {capability: entry["kernels"] for entry in entries for capability in entry["capabilities"]}


def kernel_of(weight: WeightFormat, capability: int, rows: int = 0, columns: int = 0) -> str | None:
    """The kernel of weights of ``rows`` x ``columns`` on one device; ``None`` where none takes them.

    Args:
        weight: packed integers in groups of whole rows.
        capability: of the device, e.g. 90.
        rows: of all linears that are fused; 0 asks about the format alone.
        columns: of the same.
    """
    size = -1 if weight.group_size is None else weight.group_size
    for one in _table()[capability]:
        known = weight.num_bits in one["bits"] and size in one["group_sizes"]
        fits = rows % one["rows"] == 0 and columns % one["columns"] == 0
        if known and fits and one["zero_points"] == (not weight.symmetric):
            return str(one["kernel"])
    return None


def humming_ruling(weight: WeightFormat, name: str, rows: int, columns: int) -> Ruling:
    """What Humming's kernels assert of a linear called ``name``, beyond ``can_implement``, which accepts all.

    It pads rows to 256 and columns to 128, by multiples of 8 alone. Zero points of whole rows were seen not to end.
    """
    if rows % _STEP or columns % _STEP:
        return illegal(f"{name}: {rows} x {columns} is no multiple of {_STEP} x {_STEP}", _HUMMING)
    if not weight.symmetric and weight.group_size is None:
        return illegal(f"{name}: {weight.name} of {rows} x {columns} hangs; use groups", _HUMMING)
    return LEGAL

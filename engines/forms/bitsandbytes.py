"""``bitsandbytes``: NF4 by blocks, written as the library itself serializes it.

Sources: bitsandbytes 0.50.2 (``nn/modules.py``, ``functional.py``, ``backends/``) and transformers 5.17
(``quantizer_bnb_4bit.py``, ``quantizer_bnb_8bit.py``), read and tried.

What is multiplied: on a CPU with AVX512-BF16 the library packs the codes anew, rounds the scales of blocks to bfloat16
and multiplies in it; elsewhere it expands codes times float32 scales in the dtype of the input, which
``bnb_4bit_compute_dtype`` sets to that of the model, as its users do. Either is not float32 throughout, so an export
is held against the tolerance of 16-bit products; that it has the right codes and scales is a test of the packing.

LLM.int8 without outliers (``llm_int8_threshold`` 0) is rows of 8 bits and inputs rounded by token to 127 steps, for
which we have a format (``InputCodes`` ``positive``). It was tried and is refused: inputs are cast to float16 before
they are rounded, which moves some to other codes, and on random models the export differed from the candidate by about
two thirds of the KL that rounding does at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from paretune.compressors.expert_names import UNFOLDED
from paretune.engines.forms.packed_form import PackedForm, dense_modules, quantized_modules, skip_patterns
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.form_bytes import quant_state
from paretune.spaces.legality import LEGAL, Ruling
from paretune.spaces.model import Linear, ModelSpec

if TYPE_CHECKING:
    import torch

    from paretune.compressors.quantizers import QuantizedWeight
    from paretune.spaces.formats import WeightFormat

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Weights that share a scale, as ``dequantize_4bit`` takes them."""


class BitsAndBytes(PackedForm):
    """Blocks may differ from linear to linear: every one has a record of its own."""

    name = "bitsandbytes"
    container = "bitsandbytes"
    packages = ("bitsandbytes",)
    source = "bitsandbytes 0.50"
    numeric_path = (
        "products in the model's 16 bits (on CPUs with AVX512-BF16 with scales rounded to bfloat16)"
    )
    remedy = "Use the format nf4 and leave the rest at 16 bits, or choose another form"
    takes_conv1d = True
    takes_head = True
    inputs = "the library's LLM.int8 rounds them from float16, to other codes than were searched"

    def layer_ruling(self, choice: LayerChoice, shape: tuple[int, int]) -> Ruling:
        """NF4 alone; why neither FP4 nor 8 bits is among what it holds for us."""
        weight = choice.weight
        if weight.codebook == "normal":
            return self._block_ruling(weight.group_size, shape)
        if weight.number_type == "float" and weight.num_bits == 4:
            return self.refused(
                f"{weight.name} has E2M1, whose smallest number is a twelfth of the largest; in the library's fp4"
                " it is 1/192"
            )
        if weight.num_bits == 8:
            return self.refused(
                f"{weight.name}: its 8 bits (LLM.int8) round inputs too, which was not searched"
            )
        return self.refused(f"it holds NF4, not {weight.name}")

    def joint_ruling(self, spec: ModelSpec, quantized: list[tuple[Linear, LayerChoice]]) -> Ruling:
        """Refuses families whose experts ``transformers`` takes apart beside this form: not tried."""
        del quantized
        if spec.family in UNFOLDED:
            return self.refused(f"experts of {spec.family} become linears of their own beside it, not tried")
        return LEGAL

    def pack(
        self, path: str, found: QuantizedWeight, weight: WeightFormat, dtype: str
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """See :mod:`paretune.spaces.form_bytes`; the first of two codes is in the upper half of a byte."""
        import torch

        from paretune.compressors.quantizers.numbers import NORMAL_LEVELS

        rows, columns = found.codes.shape
        places = (found.codes.cpu().to(torch.int16) + 8).to(torch.uint8).reshape(-1, 2)
        record = quant_state((rows, columns), weight, dtype).encode()
        yield f"{path}.weight", (places[:, :1] << 4 | places[:, 1:]).contiguous()
        yield f"{path}.weight.absmax", found.scales.cpu().to(torch.float32).reshape(-1).clone()
        yield f"{path}.weight.quant_map", torch.tensor(NORMAL_LEVELS, dtype=torch.float32)
        yield (
            f"{path}.weight.quant_state.bitsandbytes__nf4",
            torch.frombuffer(bytearray(record), dtype=torch.uint8),
        )

    def quantization(self, spec: ModelSpec, config: CompressionConfig) -> dict[str, Any]:
        """As ``BitsAndBytesConfig`` writes itself."""
        left, replaced = dense_modules(spec, config), quantized_modules(spec, config)
        return {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": False,
            "bnb_4bit_compute_dtype": spec.dtype,
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": skip_patterns(left, replaced),
        }

    def _block_ruling(self, size: int | None, shape: tuple[int, int]) -> Ruling:
        weights = shape[1] if size is None else size
        if weights not in BLOCKS:
            return self.refused(f"{weights} weights a scale are not among {', '.join(map(str, BLOCKS))}")
        return LEGAL

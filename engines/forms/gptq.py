"""``gptq``: integers of one width for all quantized linears, loaded by GPTQModel through Optimum.

Sources: transformers 5.17 (``quantizer_gptq.py``), optimum 2.3 (``gptq/quantizer.py``) and gptqmodel 7.6
(``nn_modules/qlinear/``), read and tried on a CPU. Optimum makes every module with the ``bits``, ``group_size`` and
``sym`` of the whole checkpoint and knows no ``dynamic``, which is GPTQModel's own word for exceptions; what it leaves
alone is what ``modules_in_block_to_quantize`` does not name.

Symmetric weights are written in the layout ``gptq``, which everybody reads: it stores zero points less one, and the
loader adds one to whole words. An asymmetric zero point of 0 would carry into its neighbour, so these are written
in the layout ``gptq_v2``, which stores them as they are.

What is multiplied on a CPU: 4 bits by ``_weight_int4pack_mm_for_cpu`` with inputs and scales in bfloat16; other widths
are expanded in float16, the type of the scales, and multiplied in the dtype of the input. The digits of a bfloat16
scale times a code of 2 or 3 bits are no more than float16 has, so that these exports are held against the tolerance of
float32; those of 8 bits are more, so 4 and 8 bits are held against that of 16-bit products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from paretune.engines.forms.packed_form import PackedForm, quantized_modules
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.legality import Ruling
from paretune.spaces.model import Linear, ModelSpec

if TYPE_CHECKING:
    import torch

    from paretune.compressors.quantizers import QuantizedWeight
    from paretune.spaces.formats import WeightFormat

WIDTHS = (2, 3, 4, 8)
GROUPS = (16, 32, 64, 128, 256, 512, 1024)
"""Weights that share a scale; besides, a whole row."""
BUNDLE = 32
"""Codes that fill whole words, whatever their width."""
_EXACT_BITS = 3


class Gptq(PackedForm):
    """One width, one group size, with or without zero points; some linears may stay at 16 bits."""

    name = "gptq"
    container = "gptq"
    packages = ("gptqmodel", "optimum")
    source = "transformers 5.17 with optimum 2.3 and gptqmodel 7.6"
    numeric_path = (
        "weights expanded in float16 (2, 3, 8 bits), or 4-bit codes times inputs, with scales, in bfloat16"
    )
    remedy = "Give all quantized linears one format of 2, 3, 4 or 8 bits, or choose another form"

    def computes_in_float32(self, config: CompressionConfig) -> bool:
        """Where expanding rounds nothing."""
        return all(
            choice.weight.num_bits <= _EXACT_BITS
            for choice in config.layers.values()
            if not choice.weight.dense
        )

    def layer_ruling(self, choice: LayerChoice, shape: tuple[int, int]) -> Ruling:
        """Integers that fill words."""
        weight = choice.weight
        if weight.num_bits not in WIDTHS:
            return self.refused(f"{weight.num_bits} bits are not among {', '.join(map(str, WIDTHS))}")
        if shape[0] % BUNDLE or shape[1] % BUNDLE:
            return self.refused(
                f"its words hold {BUNDLE} codes, which do not divide {shape[0]} by {shape[1]}"
            )
        return self.integer_ruling(weight, GROUPS)

    def joint_ruling(self, spec: ModelSpec, quantized: list[tuple[Linear, LayerChoice]]) -> Ruling:
        """One format for the checkpoint, and scales that float16 has."""
        first, wanted = quantized[0]
        other = next((pair for pair in quantized if pair[1].weight != wanted.weight), None)
        if other is not None:
            return self.refused(
                f"{other[0].name} has {other[1].weight.name} and {first.name} has {wanted.weight.name}, but all"
                " quantized linears are made with the bits, group size and symmetry of the checkpoint (`dynamic`"
                " is not read)"
            )
        return self.scale_ruling(spec)

    def pack(
        self, path: str, found: QuantizedWeight, weight: WeightFormat, dtype: str
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """See :func:`paretune.spaces.form_bytes.gptq_bytes`; codes and zero points count from 0."""
        import torch

        from paretune.engines.forms.packed_words import half_scales, pack_columns, pack_rows

        del dtype
        half = 1 << (weight.num_bits - 1)
        codes = found.codes.cpu().to(torch.int16).t().contiguous() + half
        scales = half_scales(path, found)
        # The layout of symmetric weights stores zero points less one.
        zeros = (
            torch.full(scales.shape, half - 1)
            if found.zeros is None
            else found.zeros.cpu().short().t() + half
        )
        yield f"{path}.qweight", pack_rows(codes, weight.num_bits)
        yield f"{path}.qzeros", pack_columns(zeros, weight.num_bits)
        yield f"{path}.scales", scales
        yield f"{path}.g_idx", (torch.arange(len(codes)) // found.group_size).to(torch.int32)

    def quantization(self, spec: ModelSpec, config: CompressionConfig) -> dict[str, Any]:
        """As ``GPTQConfig`` writes itself; names are those of modules inside a block, or whole ones."""
        weight = next(c.weight for c in config.layers.values() if not c.weight.dense)
        layout = "gptq" if weight.symmetric else "gptq_v2"
        return {
            "quant_method": "gptq",
            "bits": weight.num_bits,
            "group_size": -1 if weight.group_size is None else weight.group_size,
            "sym": weight.symmetric,
            "desc_act": False,
            "format": layout,
            "checkpoint_format": layout,
            "block_name_to_quantize": spec.block_path,
            "modules_in_block_to_quantize": [list(quantized_modules(spec, config))],
        }

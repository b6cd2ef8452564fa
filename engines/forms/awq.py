"""``awq``: integers of 4 bits with zero points, in AutoAWQ's layout ``gemm``, loaded by GPTQModel.

Sources: transformers 5.17 (``quantizer_awq.py``, ``integrations/awq.py``) and gptqmodel 7.6
(``quantization/awq/utils/packing_utils.py``, ``nn_modules/qlinear/``), read and tried on a CPU. The method of that
name is another matter: any 4-bit integers fit, whoever rounded them, symmetric ones with the zero point 8.

What is multiplied on a CPU: codes of 4 bits by ``_weight_int4pack_mm_for_cpu``, with inputs and scales in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from paretune.engines.forms.packed_form import PackedForm, dense_modules, quantized_modules, skip_patterns
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.legality import Ruling
from paretune.spaces.model import Linear, ModelSpec

if TYPE_CHECKING:
    import torch

    from paretune.compressors.quantizers import QuantizedWeight
    from paretune.spaces.formats import WeightFormat

SCALED_ACTIVATIONS = (
    "starcoder2", "RefinedWebModel", "falcon", "mpt", "gptj", "gpt_neox", "gpt_bigcode", "bloom",
)  # fmt: skip
"""Types of model whose activation the loader replaces by one with scales (``AWQ_SCALES_MAPPINGS``)."""
GROUPS = (16, 32, 64, 128)
"""Weights that share a scale; besides, a whole row."""
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight consecutive rows of the weight lies at each place of a word, from the lowest bits up."""
_HALF = 8


class Awq(PackedForm):
    """One group size; some linears may stay at 16 bits."""

    name = "awq"
    container = "awq"
    packages = ("gptqmodel",)
    source = "transformers 5.17 with gptqmodel 7.6"
    numeric_path = "products of 4-bit codes with bfloat16 inputs and scales"
    remedy = "Give all quantized linears 4 bits in groups of one size, or choose another form"

    def layer_ruling(self, choice: LayerChoice, shape: tuple[int, int]) -> Ruling:
        """Integers of 4 bits."""
        weight = choice.weight
        if weight.num_bits != 4:
            return self.refused(f"it has 4 bits, not {weight.num_bits}")
        if shape[0] % len(ORDER):
            return self.refused(f"a word holds {len(ORDER)} rows, which do not divide {shape[0]}")
        return self.integer_ruling(weight, GROUPS)

    def joint_ruling(self, spec: ModelSpec, quantized: list[tuple[Linear, LayerChoice]]) -> Ruling:
        """One group size for the checkpoint, and scales that float16 has."""
        if spec.model_type in SCALED_ACTIVATIONS:
            return self.refused(
                f"of {spec.model_type} the loader replaces the activation by one with scales, which the method awq"
                " makes there and the candidate has none of"
            )
        first, wanted = quantized[0]
        size = wanted.weight.group_size
        other = next((pair for pair in quantized if pair[1].weight.group_size != size), None)
        if other is not None:
            return self.refused(
                f"{other[0].name} has {other[1].weight.name} and {first.name} has {wanted.weight.name}, but all"
                " quantized linears are made with the group size of the checkpoint"
            )
        return self.scale_ruling(spec)

    def pack(
        self, path: str, found: QuantizedWeight, weight: WeightFormat, dtype: str
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """See :func:`paretune.spaces.form_bytes.awq_bytes`; codes and zero points count from 0."""
        import torch

        from paretune.engines.forms.packed_words import half_scales, pack_columns

        del weight, dtype
        scales = half_scales(path, found)
        places = torch.arange(len(found.codes)).view(-1, len(ORDER))[:, list(ORDER)].flatten()
        codes = found.codes.cpu().t() + _HALF
        zeros = torch.zeros_like(scales, dtype=torch.int8) if found.zeros is None else found.zeros.cpu().t()
        yield f"{path}.qweight", pack_columns(codes[:, places], 4)
        yield f"{path}.qzeros", pack_columns((zeros + _HALF)[:, places], 4)
        yield f"{path}.scales", scales

    def quantization(self, spec: ModelSpec, config: CompressionConfig) -> dict[str, Any]:
        """As ``AwqConfig`` writes itself."""
        weight = next(c.weight for c in config.layers.values() if not c.weight.dense)
        left, replaced = dense_modules(spec, config), quantized_modules(spec, config)
        return {
            "quant_method": "awq",
            "bits": 4,
            "group_size": -1 if weight.group_size is None else weight.group_size,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": skip_patterns(left, replaced),
        }

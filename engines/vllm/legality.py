"""What vLLM 0.26 and newer loads from a compressed-tensors checkpoint, by generation of the device.

Sources: vLLM's own schemes and kernels (named in each refusal) in 0.26, and what was seen on a Hopper card (0.26) and
in the CPU build (0.32); ``benchmarks/results/legality.csv``.
"""

from __future__ import annotations

from dataclasses import dataclass

from paretune.engines.vllm.devices import Generation, generation
from paretune.engines.vllm.formats import shape_ruling, weight_ruling
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.checking import pruned_ruling
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import PrunedShape
from paretune.spaces.groups import fused_groups
from paretune.spaces.legality import LEGAL, FusedGroup, Ruling, illegal
from paretune.spaces.model import LatentCache, ModelSpec
from paretune.spaces.size import kept_extent

_CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
_CPU_BACKEND = "vllm/v1/attention/backends/cpu_attn.py"
_LATENT_WIDTHS = (320, 512, 576)
_NOT_ON_CPUS = {
    "minimax_m2": ("the CPU build routes by softmax, or in groups", "vllm: fused_moe/router/cpu_router.py"),
    "jamba": ("the CPU build has no selective scan of Mamba", "vllm: mamba/ops/mamba_ssm.py"),
}
"""By family: what the CPU build (0.32) lacks, and where it ends."""
_CACHE = "vllm: CompressedTensorsKVCacheMethod"


@dataclass(frozen=True)
class VllmLegality:
    """See :class:`paretune.spaces.legality.Legality`.

    Attributes:
        engine: registered name.
        device: name of the device.
        tensor_parallel: devices that share every layer; heads and rows are divided among them.
    """

    engine: str
    device: str
    tensor_parallel: int = 1

    @property
    def generation(self) -> Generation:
        """Of the device."""
        return generation(self.device)

    def groups(self, spec: ModelSpec) -> tuple[FusedGroup, ...]:
        """What vLLM fuses (q/k/v, gate/up, the experts of a layer) has one scheme."""
        return fused_groups(spec)

    def choice(self, spec: ModelSpec, group: FusedGroup, choice: LayerChoice, pruned: PrunedShape) -> Ruling:
        """See :class:`paretune.spaces.legality.Legality`."""
        verdict = weight_ruling(spec, group, choice, self.generation)
        return verdict and shape_ruling(spec, group, choice, pruned, self.generation, self.tensor_parallel)

    def kv(self, spec: ModelSpec, kv: KVFormat) -> Ruling:
        """16 bits, or E4M3 under unit scales in every block."""
        del spec
        if kv.layers or (kv.num_bits != 16 and kv.number_type != "float"):
            return illegal(
                f"cache {kv.name}: vLLM keeps 16 bits or FP8, the same in all layers",
                f"{_CACHE}, --kv-cache-dtype",
            )
        if kv.num_bits == 16:
            return LEGAL
        if self.generation in ("cpu", "ampere"):
            return illegal(
                f"an FP8 cache needs kernels from Ada on, or AVX-512; not {self.device}", _CPU_BACKEND
            )
        if (kv.key_scale, kv.value_scale) != (1.0, 1.0):
            return illegal(
                f"cache {kv.name}: calibrated scales are not written for vLLM; use unit scales", _CACHE
            )
        return LEGAL

    def pruned(self, spec: ModelSpec, pruned: PrunedShape) -> Ruling:
        """A smaller configuration of the same architecture whose heads can be divided among the devices."""
        if not (verdict := pruned_ruling(spec, pruned)):
            return verdict
        parts = self.tensor_parallel
        heads = kept_extent(spec, "heads", spec.heads, pruned)
        kv_heads = kept_extent(spec, "kv_heads", spec.kv_heads, pruned)
        if heads % parts or (kv_heads % parts and parts % kv_heads):
            return illegal(
                f"{heads} heads and {kv_heads} key-value heads cannot be divided among {parts} devices",
                "vllm: verify_with_parallel_config",
            )
        return _on_a_cpu(spec) if self.generation == "cpu" else LEGAL


def _on_a_cpu(spec: ModelSpec) -> Ruling:
    """What the CPU build does not run of a model, whatever is chosen."""
    for width in {cache.head_dim for _, cache in spec.attention}:
        if width not in _CPU_HEADS:
            return illegal(f"the CPU build has no attention for heads of {width}", _CPU_BACKEND)
    for latent in (cache for cache in spec.cache if isinstance(cache, LatentCache)):
        if latent.indexer:
            return illegal("the CPU build has no sparse attention (an indexer)", "vllm: platforms/cpu.py")
        if latent.width not in _LATENT_WIDTHS:
            return illegal(
                f"no latent attention keeps {latent.width} numbers a token", "vllm: mla_attention.py"
            )
    if spec.family in _NOT_ON_CPUS:
        return illegal(*_NOT_ON_CPUS[spec.family])
    if spec.of_role("expert_up"):
        return illegal(
            "the CPU build has no experts without a gate", "vllm: fused_moe/config.py, is_act_and_mul"
        )
    return LEGAL

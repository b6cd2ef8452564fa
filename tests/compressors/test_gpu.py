"""The floor on a GPU: the same codes, the same numbers as on a CPU to rounding."""

import pytest
import torch

from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_dense
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.architectures import read_model
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.formats import integer_format
from tests.compressors.conftest import make_windows
from tests.models import build_tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

FOUR = LayerChoice(weight=integer_format(4, 32), method="rtn")
HQQ = LayerChoice(weight=integer_format(3, 32, symmetric=False), method="hqq")
HALF = LayerChoice(weight=integer_format(8, 32), method="rtn", sparsity=Sparsity(fraction=0.5))


def configs(spec):
    inside = [linear.name for linear in spec.block_linears]
    yield DENSE_CONFIG
    for choice in (FOUR, HQQ, HALF, LayerChoice(sparsity=Sparsity(fraction=0.5))):
        yield CompressionConfig(layers=dict.fromkeys(inside, choice))
    rounded = [name for name in inside if "experts" not in name]
    yield CompressionConfig(layers=dict.fromkeys(rounded, LayerChoice(activation=ActivationFormat())))
    yield CompressionConfig(kv=KVFormat(num_bits=8))
    kept = [linear.name for linear in spec.block_linears if linear.block in (0, 2)]
    pruned = PrunedShape(blocks=(0, 2), kv_heads=1, ffn_channels=spec.ffn_size // 2)
    yield CompressionConfig(layers=dict.fromkeys(kept, FOUR), pruned=pruned)


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3_moe"])
def test_every_kind_of_candidate(family, tmp_path):
    torch.backends.cuda.matmul.allow_tf32 = False
    folder = build_tiny(family, tmp_path / "model", dtype="bfloat16")
    spec, found = read_model(folder), {}
    for device in ("cpu", "cuda"):
        model = load_dense(folder, spec, device=device)
        windows = make_windows()
        bank = Bank.open(tmp_path / device, folder, model, spec, "hash", windows)
        assembler, teacher = Assembler(model, spec, bank), Teacher(model, windows)
        found[device] = [teacher.compare(assembler.apply(config)).kl.mean() for config in configs(spec)]
        layer = next(linear.name for linear in spec.linears if linear.role in ("q", "qkv"))
        found[f"{device} codes"] = bank.quantized(layer, FOUR).codes
    assert found["cuda"][0] < 1e-12
    # Routing may flip on rounding alone, so a mixture agrees less closely; so may inputs rounded to 8 bits (2e-5).
    close = 0.02 if family != "qwen3_moe" else 0.3
    assert found["cuda"][1:] == pytest.approx(found["cpu"][1:], rel=close, abs=2e-5)
    assert torch.equal(found["cuda codes"].cpu(), found["cpu codes"])


def test_half_precision_on_the_device(tmp_path):
    folder = build_tiny("llama", tmp_path / "model", dtype="bfloat16")
    spec = read_model(folder)
    model = load_dense(folder, spec, dtype=torch.bfloat16, device="cuda")
    windows = make_windows()
    bank = Bank.open(tmp_path / "bank", folder, model, spec, "hash", windows)
    assembler, teacher = Assembler(model, spec, bank), Teacher(model, windows)
    for config in configs(spec):
        assert teacher.compare(assembler.apply(config)).kl.mean() < 1.0
    assert teacher.compare(assembler.apply(DENSE_CONFIG)).kl.mean() < 1e-12

"""Fused loops against the plain code, on a GPU, or interpreted on the CPU where TRITON_INTERPRET=1 asks for it."""

import os

import pytest
import torch

from paretune.compressors.packing import pack_codes
from paretune.compressors.quantizers import QuantizedWeight
from paretune.compressors.teacher_logits import FullStore

pytest.importorskip("triton", reason="Triton is not installed")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("num_bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("zeros", ["none", "int", "float"])
def test_expanded_codes_are_the_same_bits(num_bits, zeros):
    from paretune.compressors.gpu_kernels import expand

    generator = torch.Generator().manual_seed(num_bits)
    rows, columns, size, half = 37, 96, 32, 1 << (num_bits - 1)
    codes = torch.randint(-half, half, (rows, columns), generator=generator, dtype=torch.int8)
    scales = torch.randn(rows, columns // size, generator=generator).to(torch.bfloat16)
    shifts = {
        "none": None,
        "int": torch.randint(-half, half, scales.shape, generator=generator, dtype=torch.int8),
        "float": torch.randn(scales.shape, generator=generator).to(torch.bfloat16),
    }[zeros]
    exact = QuantizedWeight(codes, scales, shifts, size).dequantize()
    packed = pack_codes(codes, num_bits).to(DEVICE)
    # Interpreted, Triton cuts to bfloat16 in the place of rounding.
    for dtype in (torch.float32, torch.float16, *(() if INTERPRETED else (torch.bfloat16,))):
        out = torch.empty(rows, columns, dtype=dtype, device=DEVICE)
        moved = None if shifts is None else shifts.to(DEVICE)
        found = expand(packed, num_bits, scales.to(DEVICE), moved, size, out)
        assert torch.equal(found.cpu(), exact.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("noise", [0.0, 1e-4, 0.01, 1.0, 20.0])
def test_divergence_is_that_of_float64(dtype, noise):
    from paretune.compressors.gpu_kernels import divergence

    generator = torch.Generator().manual_seed(0)
    tokens, vocabulary = 6, 5003
    dense = 3 * torch.randn(tokens, vocabulary, generator=generator)
    logits = dense + noise * torch.randn(tokens, vocabulary, generator=generator)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    store = FullStore(tokens, vocabulary, dtype)
    store.put(0, torch.log_softmax(dense, dim=-1))
    kept, normaliser, top = store._log_probs, store._normaliser, store._top
    found = divergence(
        *(value.to(DEVICE) for value in (logits, kept, normaliser, top, targets)),
    )
    p = torch.log_softmax(kept.double(), dim=-1)
    q = torch.log_softmax(logits.double(), dim=-1)
    exact = (p.exp() * (p - q)).sum(dim=-1)
    plain = store.compare(0, logits.clone(), targets)
    torch.testing.assert_close(found[0].cpu().double(), exact, rtol=2e-4, atol=2e-9)
    torch.testing.assert_close(found[0].cpu(), plain.kl, rtol=1e-3, atol=1e-6)
    assert torch.equal(found[1].cpu(), plain.same)
    torch.testing.assert_close(found[2].cpu(), plain.loss, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value")  # of NumPy, which interprets
def test_what_is_not_finite_stays_so():
    from paretune.compressors.gpu_kernels import divergence

    dense = torch.log_softmax(torch.randn(3, 100), dim=-1).to(DEVICE)
    for value in (float("nan"), float("inf")):
        logits = dense.clone()
        logits[1, 7] = value
        places = torch.zeros(3, dtype=torch.int64, device=DEVICE)
        kl = divergence(logits, dense, torch.zeros(3, device=DEVICE), places, places)[0].cpu()
        assert kl.isfinite().tolist() == [True, False, True]

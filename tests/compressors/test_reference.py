"""The reference models and texts beside the checkout: plain formats against figures measured elsewhere."""

from pathlib import Path

import pytest
import torch

from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.divergence import Teacher
from paretune.compressors.documents import TextPart, check_disjoint
from paretune.compressors.loading import load_dense, load_tokenizer
from paretune.compressors.windows import read_windows
from paretune.spaces.architectures import read_model
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.formats import integer_format

SHARED = Path(__file__).parents[2].parent / "shared"
TEXT = SHARED / "data" / "text" / "books-heldout.txt"

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not TEXT.is_file(), reason=f"no reference texts in {SHARED}"),
]


def open_reference(name, tmp_path, windows=4):
    folder = SHARED / "models" / name
    spec, tokenizer = read_model(folder), load_tokenizer(folder)
    report = read_windows(
        tokenizer, TEXT, text="report", window_tokens=512, count=windows, documents=(0, 1, 7, 8, 11)
    )
    calibration = read_windows(
        tokenizer, TEXT, text="calibration", window_tokens=512, count=2, documents=(3,)
    )
    model = load_dense(folder, spec)
    bank = Bank.open(tmp_path / "bank", folder, model, spec, "reference", calibration)
    return spec, Assembler(model, spec, bank), Teacher(model, report)


def uniform(spec, bits, method="rtn"):
    weight = integer_format(bits, 128, symmetric=method == "rtn")
    choice = LayerChoice(weight=weight, method=method)
    return CompressionConfig(layers={linear.name: choice for linear in spec.block_linears})


def test_round_to_nearest_meets_the_yardstick(tmp_path):
    """KL of uniform 3 and 4 bits on the report text, against the design's yardsticks: .1059 and .0250."""
    spec, assembler, teacher = open_reference("reference-48m", tmp_path)
    dense = teacher.compare(assembler.apply(DENSE_CONFIG))
    assert dense.kl.max() == 0.0
    assert 25 < dense.measurements()["perplexity"].value < 36
    for bits, measured in ((3, 0.1059), (4, 0.0250)):
        found = teacher.compare(assembler.apply(uniform(spec, bits)))
        error = found.measurements()["kl"].stderr
        assert found.kl.mean() - 2 * error < 1.03 * measured
        assert found.kl.mean() + 2 * error > 0.85 * measured
    cache = teacher.compare(assembler.apply(CompressionConfig(kv=KVFormat(num_bits=8))), windows=2)
    assert 0 < cache.kl.mean() < 3e-4


def test_the_mixture_is_compressed_expert_by_expert(tmp_path):
    spec, assembler, teacher = open_reference("reference-moe", tmp_path, windows=4)
    values = {}
    for bits in (3, 8):
        values[bits] = teacher.compare(assembler.apply(uniform(spec, bits))).kl.mean()
    assert 0.04 < values[3] < 0.1  # .0692 among the yardsticks
    assert values[8] < 0.003
    assert torch.isfinite(torch.tensor(list(values.values()))).all()


def test_the_texts_are_told_apart():
    check_disjoint(
        {"search": TextPart(TEXT, (2, 3, 4, 5, 6, 9, 10)), "report": TextPart(TEXT, (0, 1, 7, 8, 11))}
    )

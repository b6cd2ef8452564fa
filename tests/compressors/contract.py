"""What every quantizer and every pruner must do; a new one adds a line to the lists in the test files."""

from __future__ import annotations

from dataclasses import replace

import torch

from paretune.compressors.pruners import Pruner
from paretune.compressors.quantizers import QuantizedWeight, Quantizer
from paretune.compressors.quantizers.affine import encode
from paretune.compressors.statistics import LayerStatistics
from paretune.spaces.choice import Sparsity
from paretune.spaces.errors import FormatError
from paretune.spaces.formats import WeightFormat, integer_format

BITS = (2, 3, 4, 5, 6, 8)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def trained_like(rows: int = 24, columns: int = 128, seed: int = 0) -> torch.Tensor:
    """Heavy-tailed rows of different sizes, as trained weights are."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    sizes = torch.rand(rows, 1, generator=generator) + 0.2
    return 0.03 * sizes * weight * (1 + 0.5 * weight.abs())


def statistics(columns: int, seed: int = 0) -> LayerStatistics:
    return LayerStatistics(torch.rand(columns, generator=torch.Generator().manual_seed(seed)) + 0.01)


def formats(quantizer: Quantizer, bits: int, group_size: int | None) -> list[WeightFormat]:
    """The formats of this width that the quantizer makes."""
    found = []
    for symmetric in (True, False):
        weight_format = integer_format(bits, group_size, symmetric)
        try:
            quantizer.check_format(weight_format)
        except FormatError:
            continue
        found.append(weight_format)
    return found


def error_of(quantizer: Quantizer, weight: torch.Tensor, weight_format: WeightFormat) -> float:
    return float((quantizer.quantize(weight, weight_format).dequantize() - weight).square().sum())


def check_shapes(quantizer: Quantizer, weight_format: WeightFormat, dtype: torch.dtype) -> None:
    weight = trained_like()
    found = quantizer.quantize(weight, weight_format, scale_dtype=dtype)
    groups = weight_format.groups(weight.shape[1])
    low, high = -(2 ** (weight_format.num_bits - 1)), 2 ** (weight_format.num_bits - 1) - 1
    assert found.codes.dtype == torch.int8
    assert found.codes.shape == weight.shape
    assert found.codes.min() >= low
    assert found.codes.max() <= high
    assert found.scales.dtype == dtype
    assert found.scales.shape == (weight.shape[0], groups)
    assert torch.isfinite(found.scales).all()
    if weight_format.symmetric:
        assert found.zeros is None
    else:
        assert found.zeros is not None
        assert found.zeros.dtype == torch.int8
        assert found.zeros.shape == (weight.shape[0], groups)
        assert found.zeros.min() >= low
        assert found.zeros.max() <= high
    assert found.dequantize().dtype == torch.float32


def check_idempotent(quantizer: Quantizer, weight_format: WeightFormat, dtype: torch.dtype) -> None:
    found = quantizer.quantize(trained_like(), weight_format, scale_dtype=dtype)
    groups = found.dequantize().reshape(-1, found.group_size)
    zeros = None if found.zeros is None else found.zeros.to(torch.float32).reshape(-1)
    again = encode(groups, found.scales.to(torch.float32).reshape(-1), zeros, weight_format.num_bits)
    assert torch.equal(again.to(torch.int8).view(found.codes.shape), found.codes)


def check_zeros_stay(quantizer: Quantizer, weight_format: WeightFormat) -> None:
    weight = trained_like(seed=3)
    gone = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    weight[gone] = 0.0
    values = quantizer.quantize(weight, weight_format).dequantize()
    assert (values[gone] == 0).all()


def check_order_of_rows_and_groups(quantizer: Quantizer, weight_format: WeightFormat) -> None:
    weight = trained_like(seed=4)
    straight = quantizer.quantize(weight, weight_format).dequantize()
    rows = torch.randperm(weight.shape[0], generator=torch.Generator().manual_seed(2))
    assert torch.equal(quantizer.quantize(weight[rows], weight_format).dequantize(), straight[rows])
    size = weight_format.group_size
    if size is not None:
        groups = torch.randperm(weight.shape[1] // size, generator=torch.Generator().manual_seed(3))
        columns = (groups[:, None] * size + torch.arange(size)).reshape(-1)
        moved = quantizer.quantize(weight[:, columns], weight_format).dequantize()
        assert torch.equal(moved, straight[:, columns])


def check_sign(quantizer: Quantizer, weight_format: WeightFormat) -> None:
    weight = trained_like(seed=5)
    straight, flipped = (quantizer.quantize(sign * weight, weight_format) for sign in (1.0, -1.0))
    if weight_format.symmetric:
        assert torch.equal(flipped.dequantize(), -straight.dequantize())
        assert torch.equal(flipped.codes, straight.codes)
    else:
        difference = (flipped.dequantize() + straight.dequantize()).square().sum()
        # The code range is not symmetric, so only the size of the error is the same, nearly.
        assert difference <= 4 * (straight.dequantize() - weight).square().sum()


def check_awkward_groups(quantizer: Quantizer, weight_format: WeightFormat, dtype: torch.dtype) -> None:
    """Zeros, constants, one-sided rows, one outlier, numbers at the edge of float."""
    weight = torch.zeros(7, 64)
    weight[1] = 0.5
    weight[2] = -0.25
    weight[3] = torch.linspace(0.1, 0.2, 64)
    weight[4, 7] = 100.0
    weight[5] = 1e-41
    weight[6] = torch.linspace(-6e-8, 6e-8, 64)
    found = quantizer.quantize(weight, weight_format, scale_dtype=dtype)
    values = found.dequantize()
    assert torch.isfinite(values).all()
    assert (values[0] == 0).all()
    assert ((values[1:3] - weight[1:3]).abs() <= 2**-8 * weight[1:3].abs()).all()
    assert abs(float(values[4, 7]) - 100.0) <= 0.4
    assert (values[4, :7] == 0).all()
    assert ((values - weight).abs() <= weight.abs().amax(dim=1, keepdim=True)).all()


def check_reconstruction(found: QuantizedWeight) -> None:
    """The definition, written out once more."""
    size = found.group_size
    for row, column in ((0, 0), (3, 5), (found.codes.shape[0] - 1, found.codes.shape[1] - 1)):
        zero = 0.0 if found.zeros is None else float(found.zeros[row, column // size])
        expected = (float(found.codes[row, column]) - zero) * float(found.scales[row, column // size])
        assert float(found.dequantize()[row, column]) == torch.tensor(expected, dtype=torch.float32).item()


def correlated(columns: int, seed: int = 0, tokens: int = 200) -> LayerStatistics:
    """Statistics of inputs that lean on each other."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(columns, columns, generator=generator) / columns**0.5 + torch.eye(columns)
    rows = torch.randn(tokens, columns, generator=generator) @ mixed
    covariance = rows.t() @ rows / tokens
    return LayerStatistics(covariance.diagonal().clone(), covariance)


def with_gradient(seen: LayerStatistics, rows: int) -> LayerStatistics:
    """The same with gradients, alike in every row, so that rows can change places."""
    columns = len(seen.second_moment)
    sizes = torch.rand(columns, generator=torch.Generator().manual_seed(8)) + 0.1
    return replace(seen, gradient=sizes.expand(rows, columns))


def check_pruner(pruner: Pruner) -> None:
    weight, seen = trained_like(rows=16, columns=64, seed=6), with_gradient(correlated(64), 16)
    for fraction in (0.25, 0.5, 0.9):
        mask = pruner.mask(weight, Sparsity(fraction=fraction, criterion=pruner.name), seen)
        assert mask.dtype == torch.bool
        assert mask.shape == weight.shape
        zeros, wanted = (~mask).sum(dim=1), round(fraction * 64)
        assert zeros.sum() == 16 * wanted
        assert (
            bool((zeros == wanted).all()) != pruner.across_rows
        )  # rows differ in size, so they lose unequally
        found = pruner.prune(weight, Sparsity(fraction=fraction, criterion=pruner.name), seen)
        assert torch.equal(found.mask, mask)
        assert (found.weight[~mask] == 0).all()
        assert torch.equal(found.weight, weight * mask) != pruner.updates
        if pruner.updates:  # it chooses among weights that it has changed by then
            continue
        scores = pruner.scores(weight, seen)
        kept, gone = scores.masked_fill(~mask, torch.inf), scores.masked_fill(mask, -torch.inf)
        assert (kept.amin(dim=1) >= gone.amax(dim=1)).all()
        assert not pruner.across_rows or kept.amin() >= gone.amax()
    for pattern, size in (("2:4", 4), ("4:8", 8)):
        sparsity = Sparsity.model_validate({"fraction": 0.5, "pattern": pattern, "criterion": pruner.name})
        mask = pruner.mask(weight, sparsity, seen)
        assert (mask.view(-1, size).sum(dim=1) == size // 2).all()
    half = Sparsity(fraction=0.5, criterion=pruner.name)
    straight = pruner.mask(weight, half, seen)
    rows = torch.randperm(16, generator=torch.Generator().manual_seed(7))
    assert torch.equal(pruner.mask(weight[rows], half, seen), straight[rows])
    assert torch.equal(pruner.mask(-weight, half, seen), straight)
    assert torch.equal(pruner.mask(4.0 * weight, half, seen), straight)
    assert pruner.mask(torch.zeros(4, 8), half, with_gradient(correlated(8), 4)).sum() == 16

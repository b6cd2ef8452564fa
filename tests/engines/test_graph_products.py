"""Products of codes in ONNX Runtime and OpenVINO: every shape of group, packed by hand and multiplied out."""

from __future__ import annotations

import warnings
from itertools import product

import numpy as np
import pytest
import torch

from paretune.compressors.quantizers import QuantizedWeight
from paretune.engines.environments import find_environment, run_in_environment
from paretune.engines.graphs.onnx_graph.block_codes import block_codes, block_size
from paretune.engines.graphs.onnx_graph.modules import BlockEmbedding, BlockLinear, HeldCodes
from paretune.engines.openvino.graph import OPTIONS, read_graph, silent_openvino
from tests.engines.conftest import running

ROWS, COLUMNS = 6, 768
GROUPS = [(64, 32), (80, 80), (240, 48), (384, 96), (512, 256), (512, 512), (768, 384)]
"""Columns and weights a group: one block of the operator, several, an odd number, a channel of several."""
CASES = list(product((4, 8), (True, False), GROUPS))
MIXED_UP = {(240, 48), (384, 96), (768, 384)}
"""Several groups of no power of two: refused for OpenVINO, which takes the scales of others in some."""
RUN = """
import json, sys, onnxruntime, numpy
asked = json.load(open(sys.argv[1]))
session = onnxruntime.InferenceSession(asked["model"], providers=["CPUExecutionProvider"])
given = {name: numpy.load(file) for name, file in asked["inputs"].items()}
numpy.savez(asked["out"], **dict(zip([x.name for x in session.get_outputs()], session.run(None, given))))
json.dump({}, open(asked["answer"], "w"))
"""


def weight(bits, symmetric, columns, group, seed=0):
    generator = torch.Generator().manual_seed(seed)
    half = 1 << (bits - 1)
    codes = torch.randint(-half, half, (ROWS, columns), generator=generator, dtype=torch.int8)
    scales = torch.rand(ROWS, columns // group, generator=generator) + 0.5
    zeros = torch.randint(-half, half, scales.shape, generator=generator, dtype=torch.int8)
    return QuantizedWeight(codes, scales, None if symmetric else zeros, group)


def held(bits, symmetric, columns, group):
    return HeldCodes(block_codes(weight(bits, symmetric, columns, group), bits, torch.float32))


class Products(torch.nn.Module):
    """Every case on the first columns of one input, and a table of 8 bits that is looked up and multiplied."""

    def __init__(self):
        super().__init__()
        made = [BlockLinear(held(bits, symmetric, *shape), None) for bits, symmetric, shape in CASES]
        table = held(8, False, 512, 512)
        self.products = torch.nn.ModuleList([*made, BlockLinear(table, None)])
        self.table = BlockEmbedding(table, None)

    def forward(self, inputs, ids):
        return (*(x(inputs[:, : x.held.columns]) for x in self.products), self.table(ids))


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, COLUMNS, generator=generator), torch.tensor([[1, 5, 0]])


@pytest.fixture(scope="module")
def graph(inputs, tmp_path_factory):
    names = [f"y{index}" for index in range(len(CASES) + 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Products().eval(), inputs, dynamo=True, opset_version=21, optimize=False, verbose=False,
            input_names=["inputs", "ids"], output_names=names,
        )  # fmt: skip
    file = tmp_path_factory.mktemp("products") / "model.onnx"
    program.save(file, external_data=True)
    return file


@pytest.fixture(scope="module")
def wanted(inputs):
    """What the cases, the product with the table, and its rows are, in float64."""
    cases = [*CASES, (8, False, (512, 512))]
    found = [weight(bits, symmetric, *shape).dequantize().double() for bits, symmetric, shape in cases]
    products = [inputs[0][:, : x.shape[1]].double() @ x.T for x in found]
    return [*products, found[-1][inputs[1]]]


def check(found, wanted, left_out=()):
    cases = [*CASES, (8, False, "tied head"), (8, False, "table")]
    for index, (case, right) in enumerate(zip(cases, wanted, strict=True)):
        if case[2] in left_out:
            continue
        error = (torch.from_numpy(found[f"y{index}"]) - right).abs().max() / right.abs().max()
        assert error < 1e-5, case


@pytest.mark.engine
def test_onnx_runtime_multiplies_every_shape_of_group(graph, inputs, wanted, tmp_path):
    running("onnxruntime")
    script, out = tmp_path / "multiply.py", tmp_path / "out.npz"
    script.write_text(RUN)
    files = {name: str(tmp_path / f"{name}.npy") for name in ("inputs", "ids")}
    for file, value in zip(files.values(), inputs, strict=True):
        np.save(file, value.numpy())
    asked = {"model": str(graph), "inputs": files, "out": str(out)}
    run_in_environment(find_environment("onnxruntime"), script, asked, 120.0)
    check(np.load(out), wanted)


@pytest.mark.engine
def test_openvino_multiplies_every_shape_of_group(graph, inputs, wanted):
    running("openvino")
    model = silent_openvino().Core().compile_model(read_graph(graph), "CPU", OPTIONS)
    found = model(dict(zip(("inputs", "ids"), [x.numpy() for x in inputs], strict=True)))
    check(found, wanted, left_out=MIXED_UP)


def test_codes_are_packed_as_the_operator_reads_them():
    codes = torch.tensor([[-8, 7, 0, 1, *[0] * 12]], dtype=torch.int8)
    weight = QuantizedWeight(codes, torch.tensor([[0.5]]), torch.tensor([[-3]], dtype=torch.int8), 16)
    found = block_codes(weight, 4, torch.bfloat16)
    assert found.codes[0, 0, :2].tolist() == [0xF0, 0x98]
    assert found.zeros.tolist() == [[5]]
    assert (found.block, found.repeats, found.shape) == (16, 1, (1, 16))


@pytest.mark.parametrize(
    ("columns", "group", "block", "repeats"),
    [(384, 96, 32, 3), (512, 512, 256, 2), (384, 384, 128, 3), (80, 80, 16, 5), (512, 256, 256, 1)],
)
@pytest.mark.parametrize("bits", [4, 8])
def test_a_group_of_several_blocks_has_their_codes_and_one_scale(columns, group, block, repeats, bits):
    assert block_size(columns, group) == block
    found = block_codes(weight(bits, False, columns, group), bits, torch.float32)
    assert (found.block, found.repeats, found.shape) == (block, repeats, (ROWS, columns))
    assert found.codes.shape == (ROWS, columns // block, block * bits // 8)
    assert found.scales.shape == (ROWS, columns // group)
    assert found.zeros.shape == (ROWS, -(-columns // group * bits // 8))
    assert HeldCodes(found).block_scales().shape == (ROWS, columns // block)


@pytest.mark.parametrize(
    ("zeros", "group", "packed"),
    [
        ([-8], 80, [0x00, 0x00, 0x00]),
        ([-5], 80, [0x33, 0x33, 0x03]),
        ([-5, -1], 96, [0x33, 0x73, 0x77]),
        ([-5, -1, 7], 96, [0x33, 0x73, 0x77, 0xFF, 0x0F]),
        ([-5, -1, 7], 64, [0x73, 0x0F]),
    ],
)
def test_zero_points_are_repeated_half_a_byte_at_a_time(zeros, group, packed):
    columns = group * len(zeros)
    given = torch.tensor([zeros], dtype=torch.int8)
    codes, scales = torch.zeros(1, columns, dtype=torch.int8), torch.ones(1, len(zeros))
    found = HeldCodes(block_codes(QuantizedWeight(codes, scales, given, group), 4, torch.float32))
    assert found.block_zeros().tolist() == [packed]

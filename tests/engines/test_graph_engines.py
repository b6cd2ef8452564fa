"""Graphs of ONNX Runtime and OpenVINO: every format, families, numbers packed by hand, a cache that continues."""

from __future__ import annotations

import json

import pytest
import torch

from compressors.quantizers import QuantizedWeight
from engines.engine import ExportCard
from engines.onnx_graph.block_codes import block_codes, block_size
from spaces.choice import SiteChoice
from spaces.configuration import DENSE_CONFIG, WHOLE, CompressionConfig, Student
from spaces.formats import WeightFormat
from tests.engines.conftest import assembled_logits, choice, divergence, running, uniform

pytestmark = pytest.mark.engine

TOLERANCE = 1e-6


@pytest.fixture(params=["onnxruntime", "openvino"])
def engine(request):
    return running(request.param)


def agrees(engine, one, config, folder) -> float:
    engine.export(one.assembler, config, folder, ExportCard(one.folder))
    found = engine.predictions(folder, one.ids).log_probabilities
    return divergence(assembled_logits(one, config), found)


def test_every_format_at_once_is_what_was_searched(engine, bench, tmp_path):
    one = bench("llama", tie_word_embeddings=True)
    formats = [
        choice(4, 32), choice(4, 64, symmetric=False), choice(4, None, symmetric=False), choice(8, None),
        choice(8, 32, symmetric=False), choice(8, None, symmetric=False), choice(16),
    ]  # fmt: skip
    sites = {x.name: formats[i % len(formats)] for i, x in enumerate(one.spec.block_linears)}
    config = CompressionConfig(sites={**sites, one.spec.embedding.name: choice(8, None, symmetric=False)})
    assert agrees(engine, one, config, tmp_path / "export") < TOLERANCE


def test_an_untied_head_of_few_bits_and_a_cut_student(engine, bench, tmp_path):
    one = bench("llama")
    student = Student(blocks=(0, 2), kv_heads=1, ffn_channels=192)
    outer = {one.spec.head.name: choice(4, 32), one.spec.embedding.name: choice(8, 32)}
    config = uniform(one.spec, choice(4, 64, symmetric=False), student, sites=outer)
    assert agrees(engine, one, config, tmp_path / "export") < TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neox"])
def test_families(engine, bench, tmp_path, family):
    one = bench(family)
    assert agrees(engine, one, uniform(one.spec, choice(4, 32)), tmp_path / "export") < TOLERANCE


def test_the_dense_model_is_exact(engine, bench, tmp_path):
    assert agrees(engine, bench("llama"), DENSE_CONFIG, tmp_path / "export") < TOLERANCE


def test_its_cache_continues_a_sequence(engine, bench, tmp_path):
    one = bench("llama")
    folder = engine.export(one.assembler, DENSE_CONFIG, tmp_path / "export", ExportCard(one.folder))
    prompt = one.ids[0, :8].tolist()
    found = engine.run(
        {
            "task": "generate",
            "model": str(folder / engine.form().file),
            "prompt_ids": prompt,
            "output_tokens": 6,
        }
    )
    model, ids = one.assembler.apply(DENSE_CONFIG), prompt
    with torch.inference_mode():
        for _ in range(6):
            ids = [*ids, int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
    assert found["ids"] == ids[len(prompt) :]


def test_it_is_timed(engine, bench, tmp_path):
    one = bench("llama")
    folder = engine.export(one.assembler, DENSE_CONFIG, tmp_path / "export", ExportCard(one.folder))
    asked = {"task": "time", "prompt_tokens": 8, "output_tokens": 4, "repetitions": 2}
    found = engine.run({**asked, "model": str(folder / engine.form().file)})
    assert len(found["tpot_s"]) == len(found["ttft_s"]) == 2
    assert min(found["tpot_s"]) > 0


def test_codes_are_packed_as_the_operator_reads_them():
    codes = torch.tensor([[-8, 7, 0, 1, *[0] * 12]], dtype=torch.int8)
    weight = QuantizedWeight(codes, torch.tensor([[0.5]]), torch.tensor([[-3]], dtype=torch.int8), 16)
    found = block_codes(weight, 4, torch.bfloat16)
    assert found.codes[0, 0, :2].tolist() == [0xF0, 0x98]
    assert found.zeros.tolist() == [[5]]
    assert (found.block, found.repeats, found.shape) == (16, 1, (1, 16))


def test_a_group_of_several_blocks_has_one_scale():
    assert block_size(384, 96) == 32
    weight = QuantizedWeight(torch.zeros(2, 192, dtype=torch.int8), torch.ones(2, 2), None, 96)
    found = block_codes(weight, 8, torch.float32)
    assert (found.block, found.repeats) == (32, 3)
    assert found.scales.shape == (2, 2)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (choice(3), "4 and 8 bits"),
        (choice(8, None, a8=True), "inputs"),
        (choice(4, 8), "no whole block"),
        (choice(4, 96, symmetric=False), "divide"),
        (
            SiteChoice(
                weight=WeightFormat(
                    num_bits=4, number_type="int", group_size=32, symmetric=False, zero_point="float"
                ),
                method="hqq",
            ),
            "integers",
        ),
    ],
)
def test_what_no_operator_computes_is_refused(engine, bench, wanted, said):
    spec, legality = bench("llama").spec, engine.legality("cpu")
    group = next(g for g in legality.groups(spec) if g.kind == "linear")
    verdict = legality.choice(spec, group, wanted, WHOLE)
    assert not verdict
    assert said in verdict.reason


def test_mixtures_are_refused_with_the_reason(engine, bench):
    verdict = engine.export_ruling(bench("mixtral").spec, DENSE_CONFIG)
    assert not verdict
    assert "experts" in verdict.reason


def test_nothing_is_expanded_in_the_file(engine, bench, tmp_path):
    one = bench("llama")
    folder = engine.export(
        one.assembler, uniform(one.spec, choice(4)), tmp_path / "e", ExportCard(one.folder)
    )
    announced = json.loads((folder / "paretune.json").read_text())["weight_bytes"]
    weights = folder / ("model.onnx.data" if engine.name == "onnxruntime" else "openvino_model.bin")
    assert 0.9 * announced < weights.stat().st_size < 1.1 * announced


def test_the_graph_names_no_path_of_the_machine_that_made_it(engine, bench, tmp_path):
    one = bench("llama")
    folder = engine.export(one.assembler, DENSE_CONFIG, tmp_path / "e", ExportCard(one.folder))
    graph = (folder / engine.form().file).read_bytes()
    assert b"/transformers/" not in graph
    assert b".py" not in graph

"""Graphs of ONNX Runtime and OpenVINO: every format, families, a cache that continues, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from paretune.engines.engine import Engine, ExportCard
from paretune.engines.graphs import export as graph_export
from paretune.engines.graphs.onnx_graph.file import write_onnx
from paretune.engines.verification import EXACT_TOLERANCE, LEAST_TOLERANCE, verify_export
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, WHOLE, CompressionConfig, PrunedShape
from paretune.spaces.errors import VerificationError
from paretune.spaces.formats import WeightFormat
from paretune.spaces.size import weight_bytes
from tests.engines.conftest import Bench, assembled_logits, choice, divergence, running, uniform
from tests.engines.test_silence import CONTINUOUS_INTEGRATION

pytestmark = pytest.mark.engine

TOLERANCE = 1e-6
FORMATS = [
    choice(4, 32), choice(4, 64, symmetric=False), choice(4, None, symmetric=False), choice(8, None),
    choice(8, 32, symmetric=False), choice(4, None), choice(16),
]  # fmt: skip
"""As many as a block has linears."""


@dataclass
class Exported:
    """A candidate and the folder that an engine wrote of it."""

    one: Bench
    config: CompressionConfig
    folder: Path


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def engine(request):
    return running(request.param)


@pytest.fixture(scope="module")
def everything(engine, bench, tmp_path_factory):
    """A tied model whose rows of 512 weights are several blocks of the operator; every format in every block."""
    one = bench("llama", tie_word_embeddings=True, num_hidden_layers=2, intermediate_size=512)
    layers = {
        x.name: FORMATS[(index + 3 * x.block) % len(FORMATS)]
        for index, x in enumerate(one.spec.block_linears)
    }
    layers[one.spec.embedding.name] = choice(8, None, symmetric=False)
    return written(engine, one, CompressionConfig(layers=layers), tmp_path_factory)


@pytest.fixture(scope="module")
def few(engine, bench, tmp_path_factory):
    """A cut pruned model of 4 bits, an untied head of its own, a wider embedding."""
    one = bench("llama")
    return written(engine, one, of_few_bits(one.spec, finer=0), tmp_path_factory)


def of_few_bits(spec, finer):
    """Groups of 32 in one block of the pruned model and of 64 in the other."""
    pruned = PrunedShape(blocks=(0, 2), kv_heads=1, ffn_channels=192)
    layers = {
        x.name: choice(4, 32 if x.block == finer else 64, symmetric=False)
        for x in spec.block_linears
        if pruned.keeps_block(x.block)
    }
    outer = {spec.head.name: choice(4, 32), spec.embedding.name: choice(8, 32)}
    return CompressionConfig(layers={**layers, **outer}, pruned=pruned)


TRACED: dict[tuple[Path, str], tuple[Path, int]] = {}
"""Folders with graphs and the bytes of their weights, by model and candidate."""


def written(engine: Engine, one: Bench, config: CompressionConfig, places) -> Exported:
    """Both engines are given the same graph: it is traced for the first one and copied for the second."""
    key = one.folder, config.digest

    def write(model, cache, folder):
        if key not in TRACED:
            place = places.mktemp("traced")
            TRACED[key] = place, write_onnx(model, cache, place)
        shutil.copytree(TRACED[key][0], folder, dirs_exist_ok=True)
        return TRACED[key][1]

    folder = places.mktemp(engine.name) / "export"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_export, "write_onnx", write)
        engine.export(one.assembler, config, folder, ExportCard(one.folder))
    return Exported(one, config, folder)


def differs(engine: Engine, exported: Exported) -> float:
    """Nats a token between the candidate and what the engine predicts."""
    found = engine.predictions(exported.folder, exported.one.ids).log_probabilities
    return divergence(assembled_logits(exported.one, exported.config), found)


def test_every_format_at_once_is_what_was_searched(engine, everything):
    assert differs(engine, everything) < TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neox"])
def test_families(engine, bench, tmp_path_factory, family):
    one = bench(family, num_hidden_layers=1)
    assert (
        differs(engine, written(engine, one, uniform(one.spec, choice(4, 32)), tmp_path_factory)) < TOLERANCE
    )


def test_the_dense_model_is_exact(engine, bench, tmp_path_factory):
    one = bench("llama", num_hidden_layers=1)
    assert differs(engine, written(engine, one, DENSE_CONFIG, tmp_path_factory)) < TOLERANCE


def test_a_cut_pruned_verifies_and_another_of_the_same_bytes_does_not(engine, few):
    one, stored = few.one, engine.stored(few.one.spec)
    found = verify_export(engine, one.assembler, few.config, few.folder, one.ids)
    assert found.tolerance == EXACT_TOLERANCE
    assert found.kl < TOLERANCE
    other = of_few_bits(one.spec, finer=2)
    assert weight_bytes(stored, other) == weight_bytes(stored, few.config)
    apart = divergence(assembled_logits(one, other), assembled_logits(one, few.config))
    assert apart > 10 * LEAST_TOLERANCE
    with pytest.raises(VerificationError, match="differs from the searched candidate"):
        verify_export(engine, one.assembler, other, few.folder, one.ids, tolerance=LEAST_TOLERANCE)


def test_its_cache_continues_a_sequence(engine, everything):
    one, config = everything.one, everything.config
    prompt = one.ids[0, :8].tolist()
    asked = {"task": "generate", "prompt_ids": prompt, "output_tokens": 6}
    found = engine.ask({**asked, "context": 14, "model": str(everything.folder / engine.file)})
    model, ids = one.assembler.apply(config), prompt
    with torch.inference_mode():
        for _ in range(6):
            ids = [*ids, int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
    assert found["ids"] == ids[len(prompt) :]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (choice(3), "4 and 8 bits"),
        (choice(8, None, a8=True), "inputs"),
        (choice(4, 8), "no whole block"),
        (choice(4, 96, symmetric=False), "divide"),
        (
            LayerChoice(
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
    verdict = ruling(engine, bench("llama").spec, wanted, WHOLE)
    assert not verdict
    assert said in verdict.reason


def ruling(engine, spec, wanted, pruned):
    """On the last linear of the first block, whose columns a pruned model may cut."""
    legality = engine.legality("cpu")
    group = next(g for g in legality.groups(spec) if g.layers[0].endswith("down_proj"))
    return legality.choice(spec, group, wanted, pruned)


@pytest.mark.parametrize("symmetric", [True, False])
def test_several_groups_of_no_power_of_two_are_legal_where_their_scales_are_read(engine, bench, symmetric):
    spec, pruned = bench("llama").spec, PrunedShape(ffn_channels=192)
    several = ruling(engine, spec, choice(4, 96, symmetric), pruned)
    assert bool(several) == (engine.name == "onnxruntime")
    assert several or "power of two" in several.reason
    for whole in (choice(4, 192, symmetric), choice(4, None, symmetric), choice(4, 64, symmetric)):
        assert ruling(engine, spec, whole, pruned)


def test_mixtures_are_refused_with_the_reason(engine, bench):
    verdict = engine.export_ruling(bench("mixtral").spec, DENSE_CONFIG)
    assert not verdict
    assert "experts" in verdict.reason


def test_nothing_is_expanded_in_the_file(engine, few):
    announced = json.loads((few.folder / "paretune.json").read_text())["weight_bytes"]
    weights = few.folder / ("model.onnx.data" if engine.name == "onnxruntime" else "openvino_model.bin")
    assert 0.9 * announced < weights.stat().st_size < 1.1 * announced


def test_the_graph_names_no_path_of_the_machine_that_made_it(engine, everything):
    graph = (everything.folder / engine.file).read_bytes()
    assert b"/transformers/" not in graph
    assert b".py" not in graph


def test_its_line_loads_it_and_tells_nobody(engine, everything, tmp_path, monkeypatch):
    for variable in (*CONTINUOUS_INTEGRATION, "ORT_DISABLE_TELEMETRY"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    line = engine.launch_line(everything.folder)
    done = subprocess.run(["/bin/sh", "-c", line], check=True, timeout=120, stdout=subprocess.PIPE)
    assert b"position_ids" in done.stdout
    assert not list(tmp_path.rglob("*"))

"""OpenVINO: imported silently, codes stay codes in file and program, padded batches, beams."""

from __future__ import annotations

import platform
import subprocess
import sys

import numpy as np
import pytest
import torch

from paretune.engines import find_engine
from paretune.engines.engine import ExportCard
from paretune.engines.manifest import read_manifest
from paretune.engines.openvino.graph import FILE, OPTIONS, silent_openvino
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from tests.engines.conftest import assembled_logits, choice, divergence, running

pytestmark = pytest.mark.engine

TOLERANCE = 1e-6
CONTINUOUS_INTEGRATION = ("CI", "TF_BUILD", "JENKINS_URL")
"""Variables by which the sender stays away: they would hide that it is there."""


@pytest.fixture(scope="module", autouse=True)
def engine():
    return running("openvino")


@pytest.fixture
def home(monkeypatch, tmp_path):
    """Where the sender would keep the machine's name and its counts."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for name in CONTINUOUS_INTEGRATION:
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="module")
def dense(bench, tmp_path_factory):
    one = bench("llama")
    folder = tmp_path_factory.mktemp("openvino") / "export"
    return find_engine("openvino").export(one.assembler, DENSE_CONFIG, folder, ExportCard(one.folder))


@pytest.fixture(scope="module")
def four_bits(bench, tmp_path_factory):
    one = bench("llama")
    folder = tmp_path_factory.mktemp("openvino") / "export"
    return find_engine("openvino").export(one.assembler, several(one.spec), folder, ExportCard(one.folder))


def several(spec):
    """Asymmetric, in groups of one block of the operator and, where rows are of 80 weights, of five."""
    layers = {x.name: choice(4, 32, symmetric=False) for x in spec.block_linears}
    down = [x.name for x in spec.block_linears if x.role == "down"]
    layers |= {name: choice(4, None, symmetric=False) for name in down} | {
        down[0]: choice(8, 80, symmetric=False)
    }
    return CompressionConfig(layers=layers, pruned=PrunedShape(ffn_channels=80))


def compiled(folder):
    return silent_openvino().Core().compile_model(folder / FILE, "CPU", OPTIONS)


def step(request, ids, mask, beams):
    """Logits ``(batch, tokens, vocabulary)`` of ids that follow what the state holds; masked places have no number."""
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -ids.shape[1] :]
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return request.infer({**given, "beam_idx": np.array(beams, np.int32)})["logits"].copy()


@pytest.mark.parametrize("first", ["", "import openvino_telemetry\n"], ids=["alone", "after its sender"])
def test_importing_it_here_sends_nothing(home, first):
    program = (
        f"{first}import sys\n"
        "from paretune.engines.openvino.graph import silent_openvino\n"
        "silent_openvino()\n"
        "print(sys.modules['openvino.tools.ovc.telemetry_utils'].tm.__name__)\n"
        "import openvino_telemetry\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, timeout=60, stdout=subprocess.PIPE)
    assert done.stdout.split() == [b"openvino.tools.ovc.telemetry_stub"]
    assert not list(home.iterdir())


def test_its_process_sends_nothing(home, bench, dense):
    find_engine("openvino").predictions(dense, bench("llama").ids[:1])
    assert not list(home.iterdir())


def test_the_file_holds_the_bytes_that_were_announced(four_bits):
    model, found = silent_openvino().Core().read_model(four_bits / FILE), 0
    for node in model.get_ops():
        kind = node.get_element_type().get_type_name() if node.get_type_name() == "Constant" else ""
        if kind in ("bf16", "u4", "u8"):  # others are extents, and the rotations that are not the model's
            found += int(np.prod(node.get_output_shape(0))) * node.get_element_type().bitwidth // 8
    assert found == read_manifest(four_bits)["weight_bytes"]


def test_zero_points_of_groups_of_several_blocks(bench, four_bits):
    one = bench("llama")
    found = find_engine("openvino").predictions(four_bits, one.ids).log_probabilities
    assert divergence(assembled_logits(one, several(one.spec)), found) < TOLERANCE


@pytest.mark.skipif(platform.machine() != "x86_64", reason="products of codes are the plugin's on x86 only")
def test_products_take_codes(bench, four_bits):
    kinds = []
    for node in compiled(four_bits).get_runtime_model().get_ops():
        said = node.get_rt_info()
        if said["layerType"].astype(str) == "FullyConnected":
            kinds.append(said["runtimePrecision"].astype(str))
    assert kinds.count("u4") == len(bench("llama").spec.block_linears) - 1
    assert kinds.count("u8") == 1


def test_a_padded_batch_is_its_sequences(bench, dense):
    ids = bench("llama").ids[:2, :8].numpy()
    padded, mask = ids.copy(), np.ones_like(ids)
    padded[1] = [0, 0, 0, *ids[1, :5]]
    mask[1, :3] = 0
    request = compiled(dense).create_infer_request()
    both = step(request, padded, mask, [0, 1])
    for index, tokens in enumerate((8, 5)):
        request.reset_state()
        alone = step(request, ids[index : index + 1, :tokens], np.ones((1, tokens), np.int64), [0])
        assert torch.allclose(torch.tensor(both[index, -tokens:]), torch.tensor(alone[0]), atol=1e-4)


def test_beams_continue_the_sequence_that_they_name(bench, dense):
    ids = bench("llama").ids[:2, :8].numpy()
    request = compiled(dense).create_infer_request()
    straight = step(request, ids, np.ones_like(ids), [0, 1])
    request.reset_state()
    step(request, ids[:, :7], np.ones_like(ids[:, :7]), [0, 1])
    crossed = step(request, ids[::-1, 7:].copy(), np.ones_like(ids), [1, 0])
    assert torch.allclose(torch.tensor(crossed[::-1, 0].copy()), torch.tensor(straight[:, 7]), atol=1e-4)
    assert not np.allclose(straight[0, 7], straight[1, 7], atol=1e-2)

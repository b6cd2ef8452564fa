"""Forms of checkpoint that transformers loads: the contract, golden numbers of packing, and each one's refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from paretune.compressors.quantizers import QuantizedWeight
from paretune.engines.engine import ExportCard
from paretune.engines.forms import DEFAULT_FORM, find_form, form_names
from paretune.engines.forms.packed_form import PackedForm, skip_patterns
from paretune.engines.forms.packed_words import half_scales, pack_columns, pack_rows
from paretune.engines.transformers_engine import Transformers
from paretune.engines.verification import verify_export
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.errors import EngineError, UnknownNameError
from paretune.spaces.files import write_json
from paretune.spaces.form_bytes import awq_bytes, bitsandbytes_bytes, gptq_bytes
from paretune.spaces.formats import WeightFormat, integer_format
from paretune.spaces.named_formats import find_choice
from paretune.spaces.schema import sealed
from tests.engines.conftest import choice, uniform
from tests.engines.form_contract import FormContract, PackedFormContract, loading

NF4 = find_choice("nf4")
DOWN, UP = "model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj"


class TestCompressedTensors(FormContract):
    name = "compressed-tensors"
    accepted = (choice(4), choice(3, None, symmetric=False))


class TestBitsAndBytes(PackedFormContract):
    name = "bitsandbytes"
    blocks = WeightFormat(num_bits=4, number_type="codebook", codebook="normal", group_size=32)
    accepted = (NF4, LayerChoice(weight=blocks, method="rtn"))
    families = ("llama", "gpt2", "opt")

    def refused(self):
        odd = self.blocks.model_copy(update={"group_size": 16})
        named = (find_choice(name) for name in ("mxfp4", "int8-channel", "w8a8-dynamic", "kmeans4"))
        return (choice(4), LayerChoice(weight=odd, method="rtn"), *named)

    @pytest.mark.engine
    @pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
    def test_other_architectures_load_too(self, bench, tmp_path, family):
        agrees(self.name, bench(family), NF4, tmp_path)


class TestGptq(PackedFormContract):
    name = "gptq"
    accepted = (
        choice(4),
        choice(2, 64, symmetric=False),
        choice(3, None),
        choice(3, 128, symmetric=False),
        choice(4, 32, symmetric=False),
        choice(8, None, symmetric=False),
        choice(4, 32, sparsity=0.5),
    )
    families = ("llama", "qwen2")

    def refused(self):
        return (choice(5), choice(4, 8), NF4, find_choice("fp8-channel"), find_choice("int8-tensor"))

    @pytest.mark.engine
    @pytest.mark.parametrize(
        "wanted", [choice(2, 32), choice(8, 64, symmetric=False)], ids=lambda wanted: wanted.name
    )
    def test_other_widths_and_biases_load_too(self, bench, tmp_path, wanted):
        agrees(self.name, bench("qwen2"), wanted, tmp_path)


class TestAwq(PackedFormContract):
    name = "awq"
    accepted = (choice(4, 32, symmetric=False), choice(4, 64), choice(4, None, symmetric=False))
    families = ("llama", "qwen2")

    def refused(self):
        return (choice(3), choice(8), choice(4, 8), NF4)

    @pytest.mark.engine
    def test_biases_load_too(self, bench, tmp_path):
        agrees(self.name, bench("qwen2"), choice(4, 64), tmp_path)


def agrees(name, one, wanted, folder):
    engine = loading(name)
    config = uniform(one.spec, wanted)
    made = engine.export(one.assembler, config, folder / "export", ExportCard(one.folder))
    verify_export(engine, one.assembler, config, made, one.ids)


PACKED = [name for name in form_names() if name != DEFAULT_FORM]


def test_forms_are_found_by_name():
    assert form_names() == (DEFAULT_FORM, "bitsandbytes", "gptq", "awq")
    with pytest.raises(UnknownNameError, match="ggml"):
        find_form("ggml")


# -- what refuses a whole candidate ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKED)
def test_embeddings_experts_and_nothing_at_all_are_refused(bench, name):
    form, wanted = find_form(name), {"bitsandbytes": NF4}.get(name, choice(4))
    spec = bench("qwen3_moe").spec
    assert find_form(DEFAULT_FORM).ruling(spec, DENSE_CONFIG)
    assert "nothing is quantized" in form.ruling(spec, DENSE_CONFIG).reason
    for role, said in (("embedding", "no linear"), ("expert_down", "one parameter")):
        layer = spec.of_role(role)[0].name
        verdict = form.ruling(spec, CompressionConfig(layers={layer: wanted}))
        assert layer in verdict.reason
        assert said in verdict.reason


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_what_one_setting_for_all_cannot_say_is_refused(bench, name):
    form = find_form(name)
    spec = bench("llama").spec
    mixed = form.ruling(spec, CompressionConfig(layers={DOWN: choice(4), UP: choice(4, 64)}))
    assert DOWN in mixed.reason
    assert UP in mixed.reason
    head = form.ruling(spec, CompressionConfig(layers={spec.head.name: choice(4)}))
    assert "head" in head.reason
    wide = form.ruling(bench("llama", dtype="float32").spec, CompressionConfig(layers={DOWN: choice(4)}))
    assert "float16" in wide.reason
    assert "Conv1D" in form.ruling(bench("gpt2").spec, uniform(bench("gpt2").spec, choice(4))).reason


def test_mixed_blocks_and_a_head_fit_into_bitsandbytes(bench):
    spec = bench("llama").spec
    other = LayerChoice(weight=NF4.weight.model_copy(update={"group_size": 128}), method="rtn")
    layers = {DOWN: NF4, UP: other, spec.head.name: NF4}
    assert find_form("bitsandbytes").ruling(spec, CompressionConfig(layers=layers))


def test_an_activation_that_awq_replaces_is_refused(bench):
    spec = bench("gpt_neox").spec
    assert "activation" in find_form("awq").ruling(spec, uniform(spec, choice(4))).reason


# -- packing by hand ------------------------------------------------------------------------------------------


def test_words_are_filled_from_the_lowest_bit_across_borders():
    three = torch.tensor([5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, *[0] * 20, 4]).unsqueeze(1)
    # Code 10 has two bits in the first word and one in the second; code 31 ends the third word.
    assert pack_rows(three, 3).flatten().tolist() == [5 | (3 << 30) - (1 << 32), 1, -(1 << 31)]
    assert pack_columns(torch.arange(8).unsqueeze(0), 4).tolist() == [[0x76543210]]
    assert pack_rows(torch.tensor([[255], [0], [0], [128]]), 8).tolist() == [[-(1 << 31) + 255]]
    with pytest.raises(ValueError, match="do not fill"):
        pack_rows(torch.zeros(33, 1), 4)


def weight(codes, scale=0.5, zeros=None):
    found = torch.tensor(codes, dtype=torch.int8)
    return QuantizedWeight(found, torch.full((len(found), 1), scale), zeros, found.shape[1])


def test_words_by_hand_of_every_form():
    eight = weight([[row - 8] for row in range(8)])
    packed = dict(find_form("awq").pack("x", eight, integer_format(4, None), "bfloat16"))
    assert packed["x.qweight"].tolist() == [[0x75316420]]
    assert packed["x.qzeros"].view(torch.uint8).tolist() == [[0x88] * 4]
    assert packed["x.scales"].shape == (1, 8)

    square = weight([[-8] * 32] * 32)
    packed = dict(find_form("gptq").pack("x", square, integer_format(4, None), "bfloat16"))
    assert packed["x.qzeros"].view(torch.uint8).unique().tolist() == [0x77]  # 8, less one
    assert packed["x.qweight"].unique().tolist() == [0]
    zeros = torch.full((32, 1), -8, dtype=torch.int8)
    asymmetric = weight([[-8] * 32] * 32, zeros=zeros)
    packed = dict(find_form("gptq").pack("x", asymmetric, integer_format(4, None, False), "bfloat16"))
    assert packed["x.qzeros"].unique().tolist() == [0]  # as they are

    nibbles = weight([[-8, 7] * 16])
    packed = dict(find_form("bitsandbytes").pack("x", nibbles, NF4.weight, "bfloat16"))
    assert packed["x.weight"].shape == (16, 1)
    assert packed["x.weight"].unique().tolist() == [0x0F]
    record = bytes(packed["x.weight.quant_state.bitsandbytes__nf4"].tolist()).decode()
    assert record == '{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [1, 32]}'


def test_bytes_by_hand():
    assert gptq_bytes((64, 128), integer_format(3, 32)).total == 64 * 128 * 3 // 8 + 4 * 64 * 2 + 4 * 24 + 512
    assert gptq_bytes((64, 128), integer_format(3, 32)).payload == 64 * 128 * 3 // 8 + 4 * 64 * 2
    assert awq_bytes((64, 128), integer_format(4, None, False)).payload == 64 * 64 + 64 * 2 + 32
    assert bitsandbytes_bytes((64, 128), NF4.weight, "float16").payload == 64 * 64 + 64 * 2 * 4


def test_scales_that_float16_lacks_are_refused_where_they_matter():
    assert half_scales("x", weight([[1] * 32], 2.0**-20)).tolist() == [[2.0**-20]]
    with pytest.raises(EngineError, match="float16"):
        half_scales("x", weight([[1] * 32], 2.0**-30))
    assert half_scales("x", weight([[0] * 32], 2.0**-30)).isfinite().all()


def test_names_that_reach_others_are_anchored():
    left = ["lm_head", "model.layers.0.mlp.gate"]
    assert skip_patterns(left, ["model.layers.0.mlp.gate_proj"]) == [
        "lm_head",
        r"model\.layers\.0\.mlp\.gate$",
    ]
    assert skip_patterns(left, ["model.layers.0.mlp.up_proj"]) == left


def test_asking_what_a_form_holds_loads_no_torch():
    program = (
        "import sys\n"
        "from paretune.engines.forms import find_form, form_names\n"
        "from tests.fakes import tiny_spec\n"
        "from paretune.spaces.configuration import DENSE_CONFIG\n"
        "for name in form_names():\n"
        "    find_form(name).ruling(tiny_spec(), DENSE_CONFIG)\n"
        "    find_form(name).available()\n"
        "heavy = {'torch', 'transformers', 'gptqmodel', 'bitsandbytes'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_folder_named_from_here_is_found_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "export").mkdir()
    values = {"files": {}, "base": {"vocabulary": 8}}
    write_json(tmp_path / "export" / "paretune.json", sealed(values))
    asked = {}

    def run(environment, script, request, *more):
        asked.update(request["jobs"][0])
        np.save(asked["out"], np.zeros((1, 2, 8), np.float32))
        return {"answers": [{}], "versions": {}}

    monkeypatch.setattr("paretune.engines.running.run_in_environment", run)
    monkeypatch.setattr(PackedForm, "environment", lambda self: None)
    monkeypatch.chdir(tmp_path)
    Transformers("gptq").predictions(Path("export"), torch.ones(1, 2, dtype=torch.int64))
    assert Path(asked["model"]) == (tmp_path / "export").resolve()

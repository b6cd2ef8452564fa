"""Exports: exact bytes, exact weights, files that belong to a checkpoint, nothing half-written."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from paretune.compressors.loading import load_checkpoint, load_tokenizer
from paretune.engines import find_engine
from paretune.engines.checkpoint.writer import write_checkpoint
from paretune.engines.engine import ExportCard
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import EngineError, ModelError
from paretune.spaces.files import sha256_of_file
from paretune.spaces.named_formats import find_choice
from paretune.spaces.patterns import Restrictions
from paretune.spaces.size import layer_bytes, weight_bytes
from paretune.spaces.space import SearchSpace
from tests.engines.conftest import assembled_logits, choice, divergence, uniform
from tests.fakes import tiny_spec
from tests.models import FAMILIES

ENGINE = find_engine("torch-cpu")
SPACE = Restrictions(
    bits=(2, 3, 4, 5, 6, 8, 16),
    embedding_bits=(4, 6, 8, 16),
    group_size=32,
    sparsity=(0.0, 0.5),
    kv_bits=(8, 16),
)


def export(one, config, folder, **options):
    return write_checkpoint(one.assembler, config, folder, ExportCard(one.folder, "candidate"), **options)


def stored_bytes(folder):
    return sum(tensor.nbytes for file in folder.glob("*.safetensors") for tensor in load_file(file).values())


@torch.inference_mode()
def reloaded_logits(one, folder):
    return load_checkpoint(folder)(input_ids=one.ids, use_cache=False).logits.float()


def random_configurations(one, count):
    """Legal candidates that can be exported."""
    space = SearchSpace(one.spec, ENGINE.legality("x86"), SPACE)
    one.assembler.bank.observations.correlate()
    rng = np.random.default_rng(3)
    found = []
    for _ in range(200):
        config = space.decode(space.random(rng))
        if ENGINE.export_ruling(one.spec, config):
            found.append(config)
        if len(found) == count:
            break
    return found


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gpt2"])
@pytest.mark.parametrize("tied", [True, False])
def test_random_candidates_are_as_large_as_announced_and_load_exactly(bench, tmp_path, family, tied):
    one = bench(family, tie_word_embeddings=tied)
    assert one.spec.tied == tied
    configs = random_configurations(one, 3)
    assert configs
    for index, config in enumerate(configs):
        folder = export(one, config, tmp_path / str(index))
        assert stored_bytes(folder) == weight_bytes(one.spec, config)
        without_cache = config.replaced(kv=KVFormat())
        # transformers decompresses experts in the checkpoint's own bf16, everything else in float32; in a random
        # model that moves a few tokens whose experts are nearly tied.
        allowed = 2e-3 if one.spec.experts else 1e-9
        assert divergence(assembled_logits(one, without_cache), reloaded_logits(one, folder)) <= allowed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_many_random_candidates_are_as_large_as_announced(bench, tmp_path, dtype, tied):
    one = bench("llama", dtype=dtype, tie_word_embeddings=tied)
    for index, config in enumerate(random_configurations(one, 12)):
        folder = export(one, config, tmp_path / str(index))
        assert stored_bytes(folder) == weight_bytes(one.spec, config)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [None, 32, 128])
def test_every_legal_format_comes_back_exactly(bench, tmp_path, bits, symmetric, group_size):
    one = bench("llama", tie_word_embeddings=True)
    outer = {one.spec.embedding.name: choice(8, group_size, symmetric)}
    config = uniform(one.spec, choice(bits, group_size, symmetric), layers=outer)
    folder = export(one, config, tmp_path / "export")
    model, wanted = load_checkpoint(folder), one.assembler.apply(config)
    with torch.inference_mode():
        model(input_ids=one.ids)  # the first pass decompresses
    expected = dict(wanted.named_parameters())
    found = {name: p for name, p in model.named_parameters() if name in expected}
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name].data) for name in expected)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe", "mixtral"])
def test_a_candidate_without_codes_is_a_plain_checkpoint(bench, tmp_path, family):
    import transformers

    one = bench(family)
    config = CompressionConfig(pruned=PrunedShape(blocks=(0, 2), ffn_channels=64))
    folder = export(one, config, tmp_path / "export")
    values = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in values
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.inference_mode():
        found = model.eval()(input_ids=one.ids).logits
    assert divergence(assembled_logits(one, config), found) < 1e-9
    names = {name for file in folder.glob("*.safetensors") for name in load_file(file)}
    if family == "mixtral":
        assert "model.layers.1.block_sparse_moe.experts.3.w2.weight" in names


def test_transformers_alone_loads_it_as_the_user_would(bench, tmp_path):
    import transformers

    one = bench("llama", tie_word_embeddings=True)
    config = uniform(one.spec, choice(4), layers={one.spec.embedding.name: choice(8)})
    folder = export(one, config, tmp_path / "export")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    generated = model.generate(one.ids[:1], max_new_tokens=3, do_sample=False)
    assert generated.shape[1] > one.ids.shape[1]
    assert load_tokenizer(folder)("abc")["input_ids"] == load_tokenizer(one.folder)("abc")["input_ids"]


def test_zeros_stay_zeros(bench, tmp_path):
    one = bench()
    config = uniform(one.spec, choice(3, sparsity=0.5))
    model = load_checkpoint(export(one, config, tmp_path / "export"))
    with torch.inference_mode():
        model(input_ids=one.ids)
    weight = model.model.layers[1].mlp.down_proj.weight
    candidate = one.assembler.apply(config).model.layers[1].mlp.down_proj.weight
    assert float((weight == 0).float().mean()) >= 0.5
    assert torch.equal(weight == 0, candidate == 0)


def test_rounded_inputs_are_rounded_by_transformers_too(bench, tmp_path):
    one = bench()
    config = uniform(one.spec, choice(8, None, a8=True))
    folder = export(one, config, tmp_path / "export")
    assert stored_bytes(folder) == weight_bytes(one.spec, config)
    found = reloaded_logits(one, folder)
    assert divergence(assembled_logits(one, config), found) < 1e-6
    unrounded = uniform(one.spec, choice(8, None))
    assert divergence(assembled_logits(one, unrounded), found) > 1e-7


EXPORTED = [
    *("int8-tensor", "fp8-channel", "fp8-tensor", "fp8-block", "nvfp4", "mxfp4", "mxfp8"),
    *("w8a8-static", "fp8-dynamic", "fp8-static", "fp8-block-dynamic", "mxfp4-a4", "mxfp8-a8"),
]


@pytest.mark.parametrize("name", EXPORTED)
def test_named_formats_are_loaded_as_they_were_searched(name, bench, tmp_path):
    one = bench()
    found = find_choice(name)
    for values in ("weight", "activation"):
        value = getattr(found, values)
        if value is not None and value.group_size == 128:  # the tiny model's rows are shorter
            smaller = {"group_size": 64, **({"block_rows": 64} if values == "weight" else {})}
            found = found.model_copy(update={values: value.model_copy(update=smaller)})
    config = CompressionConfig(layers={x.name: found for x in one.spec.block_linears})
    folder = export(one, config, tmp_path / "export")
    assert stored_bytes(folder) == weight_bytes(one.spec, config)
    logits = reloaded_logits(one, folder)
    # NVFP4 is expanded in bf16 by the loader; everything else is exact.
    assert divergence(assembled_logits(one, config), logits) < (1e-3 if name == "nvfp4" else 1e-6)
    assert divergence(assembled_logits(one, DENSE_CONFIG), logits) > 1e-5


def test_what_has_no_container_is_refused_with_the_reason(bench, tmp_path):
    one = bench()
    for name, reason in (("nf4", "no codebooks"), ("kmeans3", "no codebooks"), ("nvfp4-a4", "bf16")):
        config = CompressionConfig(layers={x.name: find_choice(name) for x in one.spec.block_linears})
        with pytest.raises(EngineError, match=reason):
            ENGINE.export(one.assembler, config, tmp_path / name, ExportCard(one.folder, name))


def test_one_group_a_scheme_and_exact_targets(bench, tmp_path):
    one = bench("llama", tie_word_embeddings=True)
    pruned = PrunedShape(blocks=(0, 2))
    layers = {
        "model.layers.0.mlp.down_proj": choice(4),
        "model.layers.2.mlp.down_proj": choice(4),
        "model.layers.2.self_attn.q_proj": choice(3, symmetric=False),
        one.spec.embedding.name: choice(8),
    }
    folder = export(one, CompressionConfig(layers=layers, pruned=pruned), tmp_path / "export")
    found = json.loads((folder / "config.json").read_text())
    assert found["num_hidden_layers"] == 2
    quantization = found["quantization_config"]
    targets = {tuple(group["targets"]): group for group in quantization["config_groups"].values()}
    assert set(targets) == {
        ("model.embed_tokens", "lm_head"),
        ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"),
        ("model.layers.1.self_attn.q_proj",),
    }
    assert targets["model.embed_tokens", "lm_head"]["format"] == "int-quantized"
    assert targets["model.layers.1.self_attn.q_proj",]["weights"]["num_bits"] == 3
    assert not targets["model.layers.1.self_attn.q_proj",]["weights"]["symmetric"]
    assert "model.layers.1.mlp.up_proj" in quantization["ignore"]
    assert not set(quantization["ignore"]) & {name for names in targets for name in names}


def test_large_checkpoints_are_cut_into_shards(bench, tmp_path):
    one = bench()
    config = uniform(one.spec, choice(4))
    folder = export(one, config, tmp_path / "export", shard_bytes=100_000)
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == weight_bytes(one.spec, config)
    for name, file in index["weight_map"].items():
        with safe_open(folder / file, framework="pt") as opened:
            assert name in opened.keys()  # noqa: SIM118
    assert divergence(assembled_logits(one, config), reloaded_logits(one, folder)) < 1e-9


def test_the_manifest_says_what_it_is_and_where_it_comes_from(bench, tmp_path):
    one = bench()
    config = uniform(one.spec, choice(4), kv=KVFormat(num_bits=8))
    card = ExportCard(one.folder, "uniform-4", {"seed": 7}, {"kl": 0.25, "tpot_s": None})
    folder = write_checkpoint(one.assembler, config, tmp_path / "export", card)
    manifest = json.loads((folder / "paretune.json").read_text())
    assert manifest["schema_version"] == 2
    assert CompressionConfig.model_validate(manifest["config"]) == config
    assert (manifest["run"], manifest["figures"]) == ({"seed": 7}, {"kl": 0.25, "tpot_s": None})
    assert set(manifest["files"]) == {file.name for file in folder.iterdir()} - {"paretune.json"}
    for name, digest in manifest["files"].items():
        assert sha256_of_file(folder / name) == digest
    assert "key-value cache kv8 is" in manifest["notes"][0]
    readme = (folder / "README.md").read_text()
    assert "license: cc-by-4.0" in readme
    assert "| kl | 0.25 |" in readme
    assert "tpot_s" not in readme
    for file in folder.iterdir():
        if file.suffix in {".json", ".md"}:
            assert str(tmp_path) not in file.read_text()


def test_the_dense_model_exports_too(bench, tmp_path):
    one = bench()
    folder = export(one, DENSE_CONFIG, tmp_path / "export")
    assert stored_bytes(folder) == weight_bytes(one.spec, DENSE_CONFIG)
    assert divergence(assembled_logits(one, DENSE_CONFIG), reloaded_logits(one, folder)) < 1e-9


# -- refusals ------------------------------------------------------------------------------------------------


def test_an_occupied_folder_is_refused_and_left_alone(bench, tmp_path):
    one, folder = bench(), tmp_path / "export"
    folder.mkdir()
    (folder / "precious").write_text("mine")
    with pytest.raises(EngineError, match="not empty"):
        export(one, DENSE_CONFIG, folder)
    assert [file.name for file in folder.iterdir()] == ["precious"]
    (folder / "precious").unlink()
    assert export(one, DENSE_CONFIG, folder) == folder


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("paretune.engines.checkpoint.writer.write_json", OSError(28, "No space left on device")),
        ("safetensors.torch.save_file", SafetensorError("I/O error: No space left on device (os error 28)")),
    ],
)
def test_a_full_disk_leaves_nothing(bench, tmp_path, monkeypatch, place, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(place, full)
    with pytest.raises(EngineError, match="No space left"):
        export(bench(), DENSE_CONFIG, tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_a_container_that_is_not_as_announced_is_refused(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("paretune.engines.export_folder.weight_bytes", lambda *_: 12)
    with pytest.raises(EngineError, match="12 announced"):
        export(bench(), DENSE_CONFIG, tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_a_source_without_configuration_is_refused(bench, tmp_path):
    one = bench()
    with pytest.raises(ModelError, match=r"config\.json"):
        write_checkpoint(one.assembler, DENSE_CONFIG, tmp_path / "export", ExportCard(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("tied", "symmetric", "expected"), [
    (True, True, 256 * 128 + 2 * 256 * 4 * 2),
    (True, False, 256 * 128 + 2 * 256 * 4 * 3),
    (False, True, 256 * 128 + 256 * 4 * 2),
    (False, False, 256 * 128 + 256 * 4 * 3),
])  # fmt: skip
def test_an_eight_bit_embedding_by_hand(tied, symmetric, expected):
    spec = tiny_spec(tied=tied, dtype="bfloat16")
    config = CompressionConfig(layers={spec.embedding.name: choice(8, 32, symmetric)})
    assert layer_bytes(spec, spec.embedding, config).total == expected

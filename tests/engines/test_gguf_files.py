"""What goes into a GGUF export beside the weights: tokenizer, licence; and the bounds that its runner keeps."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from paretune.engines.engine import ExportCard
from paretune.engines.llama.gguf_file.conversion import convert, read_tokenizer, tokenizer_notes
from paretune.engines.llama.gguf_file.names import FILE
from paretune.engines.llama_engine import LlamaCpp
from paretune.engines.manifest import check_files, read_manifest
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from paretune.spaces.named_formats import find_choice
from tests.engines.conftest import assembled_logits, build, running
from tests.models import build_tiny

pytest.importorskip("gguf")

LETTERS = {"h": 0, "i": 1, "hi": 2}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def tokenizer(folder, **changes):
    """A byte-level tokenizer of three tokens in a folder of its own."""
    folder.mkdir(exist_ok=True)
    values = {
        "model": {"type": "BPE", "vocab": LETTERS, "merges": ["h i"]},
        "pre_tokenizer": BYTE_LEVEL,
        "added_tokens": [],
        **changes,
    }
    (folder / "tokenizer.json").write_text(json.dumps(values))
    return folder


def test_byte_level_bpe_is_told_by_how_it_splits(tmp_path):
    assert read_tokenizer(tokenizer(tmp_path / "a")) == ("bytes", "gpt-2")
    assert (
        read_tokenizer(tokenizer(tmp_path / "b", normalizer={"type": "Sequence", "normalizers": []}))[0]
        == "bytes"
    )
    other = {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "."}}, BYTE_LEVEL]}
    assert read_tokenizer(tokenizer(tmp_path / "c", pre_tokenizer=other)) == ("bytes", "")


def test_other_tokenizers_are_left_to_the_converter(tmp_path):
    assert read_tokenizer(tokenizer(tmp_path / "a", pre_tokenizer={"type": "Metaspace"})) == ("", "")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "tokenizer.model").write_bytes(b"sentencepiece")
    assert read_tokenizer(tmp_path / "b") == ("", "")


@pytest.mark.parametrize("split", [False, True])
def test_a_space_before_the_text_is_refused(tmp_path, split):
    before = {**BYTE_LEVEL, "add_prefix_space": True}
    if split:
        before = {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "."}}, before]}
    with pytest.raises(EngineError, match="add_prefix_space"):
        read_tokenizer(tokenizer(tmp_path, pre_tokenizer=before))


def test_text_that_is_changed_before_it_is_split_is_refused(tmp_path):
    with pytest.raises(EngineError, match=r"Lowercase.*which llama\.cpp does not"):
        read_tokenizer(tokenizer(tmp_path, normalizer={"type": "Lowercase"}))


def test_a_tokenizer_in_another_file_is_refused(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(EngineError, match=r"vocab\.json: has no tokenizer.json beside it"):
        read_tokenizer(tmp_path)
    with pytest.raises(EngineError, match=r"vocab\.json"):
        tokenizer_notes(tmp_path)


def test_a_folder_without_a_tokenizer_says_so(tmp_path):
    assert read_tokenizer(tmp_path) == ("none", "")
    assert "no tokenizer" in tokenizer_notes(tmp_path)[0]
    assert tokenizer_notes(tokenizer(tmp_path)) == ()


def test_what_the_converter_does_not_take_is_refused_with_its_reason(tmp_path):
    folder = build_tiny("opt", tmp_path / "model")
    ruling = LlamaCpp().source_ruling(folder)
    assert not ruling
    assert "Architecture 'OPTForCausalLM' not supported" in ruling.reason


def test_an_export_has_the_notes_and_every_licence_file(bench, tmp_path):
    one = bench("llama")
    source = shutil.copytree(one.folder, tmp_path / "model")
    (source / "LICENSES").mkdir()
    (source / "LICENSES" / "MIT.txt").write_text("MIT")
    for name in ("LICENSE-APACHE", "NOTICE", "USE_POLICY.md"):
        (source / name).write_text(name)
    folder = LlamaCpp().export(one.assembler, CompressionConfig(), tmp_path / "export", ExportCard(source))
    check_files(folder)
    manifest = read_manifest(folder)
    assert {"LICENSES/MIT.txt", "LICENSE-APACHE", "NOTICE", "USE_POLICY.md"} < set(manifest["files"])
    # The tokenizer of tiny models has no merges, which is no tokenizer to llama.cpp.
    assert "no tokenizer" in manifest["notes"][0]
    assert "no tokenizer" in (folder / "README.md").read_text()


@pytest.mark.engine
def test_more_tokens_than_the_context_has_are_refused_before_they_are_written(tmp_path):
    from tests.monitoring.ladders import embedded_bench

    engine = running("llama.cpp")
    made = embedded_bench(tmp_path)
    card = ExportCard(made.model_folder)
    folder = engine.export(made.assembler, CompressionConfig(), tmp_path / "export", card)
    asked = {"task": "generate", "model": str(folder / FILE), "prompt": "the dog", "output_tokens": 2}
    assert len(engine.ask({**asked, "context": 8})["ids"]) == 2
    with pytest.raises(EngineError, match="4 tokens from position 0 do not fit a context of 2 tokens"):
        engine.ask({**asked, "context": 2})


@pytest.mark.engine
def test_a_cache_of_8_bits_is_served_as_it_was_searched(bench, tmp_path):
    engine, one = running("llama.cpp"), bench("llama", head_dim=32, dtype="float32")
    cached = CompressionConfig(kv=KVFormat.named("8-ggml"))
    assert engine.export_ruling(one.spec, cached)
    folder = engine.export(one.assembler, cached, tmp_path / "export", ExportCard(one.folder))
    assert engine.launch_line(folder).endswith("--flash-attn on --cache-type-k q8_0 --cache-type-v q8_0")
    plain, served = engine.predictions(folder, one.ids), engine.served_predictions(folder, one.ids)
    wanted = {
        name: torch.log_softmax(assembled_logits(one, config), dim=-1)
        for name, config in (("whole", CompressionConfig()), ("cached", cached))
    }

    def apart(found, searched):
        return torch.stack([found.divergence(i, wanted[searched][i]) for i in range(len(one.ids))]).mean()

    # What was rounded is the cache that was searched; what is left is queries, which llama.cpp rounds too.
    assert apart(plain, "whole") < 1e-6
    assert apart(served, "cached") < 0.5 * apart(served, "whole")


def test_caches_that_llama_cpp_has_not_are_refused(bench):
    spec, legality = bench("llama").spec, LlamaCpp().legality("cpu")
    assert legality.kv(spec, KVFormat())
    for kv in (KVFormat(num_bits=8), KVFormat(num_bits=4), KVFormat.named("8-fp")):
        assert "llama.cpp has 16 bits and its own 8" in legality.kv(spec, kv).reason
    ours = KVFormat.named("8-ggml")
    assert legality.kv(spec.model_copy(update={"head_dim": 64}), ours)
    assert "do not divide heads of 48" in legality.kv(spec.model_copy(update={"head_dim": 48}), ours).reason


@pytest.mark.engine
@pytest.mark.parametrize(
    ("family", "changes"),
    [("gemma3", {"query_pre_attn_scalar": 32}), ("phi3", {}), ("granite", {}), ("glm4", {})],
)
def test_families_that_only_the_converter_knows_are_their_candidates(family, changes, tmp_path):
    engine, one = running("llama.cpp"), build(tmp_path, family, dtype="float32", **changes)
    short = find_choice("q4_0")
    config = CompressionConfig(layers={linear.name: short for linear in one.spec.block_linears})
    folder = engine.export(one.assembler, config, tmp_path / "export", ExportCard(one.folder))
    found, wanted = (
        engine.predictions(folder, one.ids),
        torch.log_softmax(assembled_logits(one, config), dim=-1),
    )
    apart = torch.stack([found.divergence(i, wanted[i]) for i in range(len(one.ids))]).mean()
    assert apart < 1e-3
    plain = torch.log_softmax(assembled_logits(one, CompressionConfig()), dim=-1)
    assert torch.stack([found.divergence(i, plain[i]) for i in range(len(one.ids))]).mean() > 5 * apart


@pytest.mark.engine
def test_llama_cpp_cuts_text_into_the_tokens_of_the_tokenizer(tmp_path):
    from tests.monitoring.ladders import embedded_bench

    engine, made = running("llama.cpp"), embedded_bench(tmp_path)
    folder = engine.export(
        made.assembler, CompressionConfig(), tmp_path / "export", ExportCard(made.model_folder)
    )
    prompt = "Ann has 12 apples, and it's 3 more than  Bob's.\n\nÜber 100 % of them"
    asked = {"task": "generate", "model": str(folder / FILE), "output_tokens": 1, "context": 128}
    by_text = engine.ask({**asked, "prompt": prompt})
    ids = made.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert by_text == engine.ask({**asked, "prompt_ids": ids})


@pytest.mark.parametrize(
    ("family", "changes", "what"),
    [
        ("mistral", {}, "a sliding window"),
        ("qwen3_moe", {}, "routing weights that are not normalised"),
        ("llama", {"hidden_act": "gelu"}, "activation 'gelu'"),
    ],
)
def test_what_the_converter_drops_without_a_word_is_refused(family, changes, what, tmp_path):
    folder = build_tiny(family, tmp_path / "model", **changes)
    with pytest.raises(EngineError, match=f"model with {what}"):
        convert(folder, tmp_path / "file.gguf", vocabulary=True)

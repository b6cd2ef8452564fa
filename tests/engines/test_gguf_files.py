"""What goes into a GGUF export beside the weights: tokenizer, licence; and the bounds that its runner keeps."""

from __future__ import annotations

import json
import shutil
from unittest.mock import Mock

import pytest
import torch

from paretune.engines.engine import ExportCard
from paretune.engines.llama.gguf_file.names import FILE
from paretune.engines.llama.gguf_file.tokenizer import add_tokenizer, tokenizer_notes
from paretune.engines.llama_engine import LlamaCpp
from paretune.engines.manifest import check_files, read_manifest
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import EngineError
from tests.engines.conftest import assembled_logits, running

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


def written(folder, vocabulary):
    writer = Mock()
    add_tokenizer(writer, folder, vocabulary)
    return writer


def test_rows_without_a_token_are_written_as_unused(tmp_path):
    writer = written(tokenizer(tmp_path), 4)
    writer.add_tokenizer_pre.assert_called_once_with("gpt-2")
    writer.add_token_list.assert_called_once_with(["h", "i", "hi", "[UNUSED3]"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"added_tokens": [{"id": 3, "content": "<end>", "special": True}], "vocabulary": 3},
    ],
    ids=["merged", "added"],
)
def test_a_token_beyond_the_embedding_is_refused(tmp_path, changes):
    rows = changes.pop("vocabulary", 2)
    token = "<end>" if changes else "hi"
    with pytest.raises(EngineError, match=f"{token}.*has id {rows}, and the model's embedding {rows} rows"):
        written(tokenizer(tmp_path, **changes), rows)


@pytest.mark.parametrize("split", [False, True])
def test_a_space_before_the_text_is_refused(tmp_path, split):
    before = {**BYTE_LEVEL, "add_prefix_space": True}
    if split:
        before = {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "."}}, before]}
    with pytest.raises(EngineError, match="add_prefix_space"):
        written(tokenizer(tmp_path, pre_tokenizer=before), 4)


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json"])
def test_a_tokenizer_in_another_file_is_refused(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(EngineError, match=f"{name}: has no tokenizer.json beside it"):
        written(tmp_path, 4)
    with pytest.raises(EngineError, match=name):
        tokenizer_notes(tmp_path)


def test_a_folder_without_a_tokenizer_says_so(tmp_path):
    writer = written(tmp_path, 4)
    writer.add_tokenizer_model.assert_called_once_with("none")
    assert "no tokenizer" in tokenizer_notes(tmp_path)[0]
    assert tokenizer_notes(tokenizer(tmp_path)) == ()


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

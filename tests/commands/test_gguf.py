"""The recommended configuration as GGUF beside its checkpoint: which block types it gets, and what llama.cpp
answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from paretune import demo
from paretune.engines import find_engine
from paretune.engines.llama.gguf_file.names import FILE
from paretune.engines.manifest import check_files, read_manifest
from paretune.pipeline.gguf import _ask, check_gguf, ggml_config, gguf_line, write_gguf
from paretune.spaces.architectures import read_model
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.errors import EngineError
from paretune.spaces.formats import WeightFormat, integer_format
from paretune.spaces.measurement import Measurement
from paretune.spaces.result import Member
from paretune.spaces.size import kept_shape
from tests.engines.conftest import running
from tests.monitoring.ladders import embedded_bench


@pytest.fixture(scope="module")
def spec():
    return read_model(demo.MODEL)


def everywhere(spec, choice, pruned=None):
    asked = {} if pruned is None else {"pruned": pruned}
    return CompressionConfig(layers=dict.fromkeys((x.name for x in spec.block_linears), choice), **asked)


def types(spec, config):
    found = {}
    for layer, choice in ggml_config(spec, config).layers.items():
        columns = kept_shape(spec, spec.linear(layer), config.pruned)[1]
        found.setdefault(columns % 256 == 0, set()).add(choice.weight.ggml)
    return found


@pytest.mark.parametrize(
    ("bits", "wanted"),
    [(2, "q2_k"), (3, "q3_k"), (4, "q4_k"), (5, "q5_k"), (6, "q6_k"), (8, "q8_0")],
)
def test_every_width_has_its_block_type(spec, bits, wanted):
    assert types(spec, everywhere(spec, LayerChoice(weight=integer_format(bits, 128), method="rtn"))) == {
        True: {wanted}
    }


@pytest.mark.parametrize(
    ("bits", "wanted"), [(2, "q4_0"), (4, "q4_0"), (5, "q5_0"), (6, "q8_0"), (8, "q8_0")]
)
def test_rows_of_a_pruned_that_256_does_not_divide_have_short_blocks(spec, bits, wanted):
    pruned = PrunedShape(ffn_channels=spec.ffn_size - 128)
    found = types(spec, everywhere(spec, LayerChoice(weight=integer_format(bits, 128), method="rtn"), pruned))
    assert found[False] == {wanted}


def test_sixteen_bits_stay_and_the_pruned_is_cut(spec):
    pruned = PrunedShape(ffn_channels=spec.ffn_size // 2)
    found = ggml_config(spec, everywhere(spec, LayerChoice(), pruned))
    assert (found.layers, found.pruned) == ({}, pruned)


def test_floats_are_taken_by_their_width(spec):
    choice = LayerChoice(weight=WeightFormat(num_bits=8, number_type="float", group_size=None), method="rtn")
    assert types(spec, everywhere(spec, choice)) == {True: {"q8_0"}}


def test_zeros_are_refused(spec):
    choice = LayerChoice(sparsity=Sparsity(fraction=0.5))
    with pytest.raises(EngineError, match="not kept by ggml"):
        ggml_config(spec, everywhere(spec, choice))


def test_a_question_that_is_not_answered_takes_nothing_from_the_file(tmp_path):
    def run(request):
        raise EngineError("llama.cpp", "ran out of memory", "")

    bench = SimpleNamespace(
        run=SimpleNamespace(model="embedded"), tokenizer=lambda text: {"input_ids": text.split()}
    )
    asked = _ask(bench, SimpleNamespace(ask=run), tmp_path)
    assert asked["unanswered"] == "llama.cpp ran out of memory"
    line = gguf_line({"folder": "here", "kl": 0.1, "weight_bytes": 1e6, **asked})
    assert "as GGUF in here" in line
    assert line.endswith("it does not answer: llama.cpp ran out of memory")


@pytest.mark.engine
def test_the_pick_answers_in_llama_cpp(tmp_path, monkeypatch):
    running("llama.cpp")
    bench = embedded_bench(tmp_path)
    config = everywhere(bench.spec, LayerChoice(weight=integer_format(6, 128), method="rtn"))
    size = Measurement(value=1.0, unit="B", n=1, by="test")
    recommended = Member(
        digest=config.digest, name="recommended", kind="searched", on_front=True, config=config,
        measurements={"weight_bytes": size},
    )  # fmt: skip
    # Engines that run graphs have a container of their own, which a GGUF file has not.
    bench.spec = find_engine("openvino").stored(bench.spec)
    # As the main job names it: relative to where it was started.
    monkeypatch.chdir(tmp_path)
    written = write_gguf(bench, recommended, Path("recommended-gguf"))
    done = check_gguf(bench, *written, Path("recommended-gguf"))
    check_files(tmp_path / "recommended-gguf")
    # Of the weights alone: llama.cpp rounds what they are multiplied with, too.
    assert 0 < read_manifest(tmp_path / "recommended-gguf")["figures"]["kl"] < done["kl"]
    assert done["weight_bytes"] < (tmp_path / "recommended-gguf" / FILE).stat().st_size
    assert 0 < done["kl_to_candidate"] <= done["tolerance"]
    assert 0 < done["kl"] < 0.01
    assert done["answer"] == done["expected"]
    assert "right" in gguf_line(done)
    assert write_gguf(bench, recommended, Path("recommended-gguf")) == written
    assert check_gguf(bench, *written, Path("recommended-gguf")) == done

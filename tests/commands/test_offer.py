"""An engine that can write nothing of a model, or has nothing to choose, is refused before anything is loaded."""

from __future__ import annotations

import pytest

from paretune.engines import find_engine
from paretune.pipeline.offer import check_offer
from paretune.spaces.architectures import read_model
from paretune.spaces.errors import EngineError, SpaceError
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from tests.commands.small_runs import paretune
from tests.models import build_tiny


def offer(folder, family, name, export=True, **asked):
    engine, spec = find_engine(name), read_model(build_tiny(family, folder / "model"))
    restrictions = Restrictions(**{"group_size": 32, **asked})
    return check_offer(
        engine,
        SearchSpace(spec, engine.legality("x86-avx2"), engine.offered(restrictions, "x86-avx2")),
        Restrictions(**asked),
        export=export,
    )


def test_a_device_that_does_not_run_the_model_is_refused(tmp_path):
    with pytest.raises(EngineError, match=r"vllm on x86-avx2 .* no sparse attention"):
        offer(tmp_path, "glm_moe_dsa", "vllm")


@pytest.mark.parametrize(
    ("family", "engine", "said"),
    [
        ("opt", "llama.cpp", "family opt are not written as GGUF"),
        ("gpt_neox", "llama.cpp", "family gpt_neox are not written as GGUF"),
        ("mixtral", "onnxruntime", "a traced graph cannot follow"),
        ("qwen3_moe", "openvino", "a traced graph cannot follow"),
    ],
)
def test_an_engine_that_writes_nothing_of_the_model_is_refused(tmp_path, family, engine, said):
    with pytest.raises(EngineError, match=f"can write nothing of the model: .*{said}"):
        offer(tmp_path, family, engine)


def test_a_search_without_a_choice_is_refused(tmp_path):
    with pytest.raises(SpaceError, match=r"nothing to choose inside the blocks: group size 48 must divide"):
        offer(tmp_path, "llama", "torch-cpu", bits=(4, 16), group_size=48, sparsity=(0.0,))


def test_layers_that_no_format_fits_are_said(tmp_path):
    first, *reasons, remedy = offer(tmp_path, "mixtral", "torch-cpu", methods=("hqq",))
    assert " % of the weights stay as they are: torch-cpu on " in first
    (said,) = [line for line in reasons if "blocks.*.experts: " in line]
    assert "experts are decompressed without zero" in said
    assert "group size" in remedy


def test_what_can_be_searched_and_not_exported_is_said(tmp_path):
    (said,) = offer(tmp_path, "gpt2", "torch-cpu")
    assert "no layer that is quantized can be exported" in said
    assert "Conv1D" in said
    assert offer(tmp_path / "again", "gpt2", "torch-cpu", export=False) == ()


@pytest.mark.parametrize("engine", ["torch-cpu", "onnxruntime"])
def test_what_an_engine_takes_whole_needs_no_words(tmp_path, engine):
    assert offer(tmp_path, "llama", engine) == ()
    assert offer(tmp_path / "dense", "llama", engine, bits=(16,), sparsity=(0.0,)) == ()


def test_the_command_refuses_before_it_loads(tmp_path):
    folder = build_tiny("opt", tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    done = paretune(
        "search", folder, "--engine", "llama.cpp", "--device", "x86-avx2", "--out", tmp_path / "run"
    )
    assert done.returncode == 2
    assert "can write nothing of the model" in done.stderr


def test_rows_that_256_does_not_divide_fall_back_on_blocks_of_32(tmp_path):
    engine, spec = find_engine("llama.cpp"), read_model(build_tiny("llama", tmp_path / "model"))
    space = SearchSpace(spec, engine.legality("x86-avx2"), engine.offered(Restrictions(), "x86-avx2"))
    names = {
        p.name: {name.partition("/")[0] for name in p.names} for p in space.parameters if p.kind == "layer"
    }
    # Hidden rows are of 128 weights; those of the second FFN matrix of 256.
    assert names["blocks.0.q"] == {"16", "q8_0", "q4_0", "q5_0", "iq4_nl"}
    assert {"q4_k", "q2_k"} < names["blocks.0.down"]
    assert not names["blocks.0.down"] & {"q4_0", "q5_0", "iq4_nl"}
    named = engine.offered(Restrictions(formats=("q4_k",)), "x86-avx2")
    space = SearchSpace(spec, engine.legality("x86-avx2"), named)
    (query,) = (p for p in space.parameters if p.name == "blocks.0.q")
    assert query.names == ("16",)  # whoever names formats gets these

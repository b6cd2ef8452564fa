"""A streamed model computes what the whole one does, in the room of two blocks and an embedding."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from paretune.compressors import covariance, statistics
from paretune.compressors.bank import Bank
from paretune.compressors.block_stream import BlockStream
from paretune.compressors.covariance import gather_covariances
from paretune.compressors.hidden_states import HiddenStates
from paretune.compressors.loading import load_dense, model_hash
from paretune.compressors.statistics import gather
from paretune.compressors.streamed_model import open_streamed
from paretune.compressors.training.block_rounding import RoundingSettings
from paretune.compressors.training.model_rounding import tune_model
from paretune.compressors.weight_source import WeightSource
from paretune.engines.checkpoint.writer import write_checkpoint
from paretune.engines.engine import ExportCard
from paretune.spaces.architectures import read_model
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.errors import ModelError
from paretune.spaces.formats import integer_format
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from tests.compressors.conftest import GROUP, make_windows
from tests.fakes import FakeLegality
from tests.models import FAMILIES, build_tiny

THREE = integer_format(3, GROUP)


def equal(found, wanted):
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def contents(folder):
    return {str(x.relative_to(folder)): x.read_bytes() for x in folder.rglob("*") if x.is_file()}


def choices(spec, method="rtn", blocks=None):
    choice = LayerChoice(weight=THREE, method=method)
    return {x.name: choice for x in spec.block_linears if blocks is None or x.block in blocks}


def open_bank(folder, source, model=None):
    return Bank.open(folder, source, model, read_model(source), model_hash(source), make_windows())


def watch(streamed, seen):
    """Note the bytes of parameters that have memory, before and after every module runs."""

    def count(*_):
        seen.append(sum(p.nbytes for p in streamed.skeleton.parameters() if not p.is_meta))

    for module in streamed.skeleton.modules():
        module.register_forward_pre_hook(count)
        module.register_forward_hook(count)


def part_bytes(spec):
    """Float32 bytes of the largest block, and of what lies around the blocks without a head of its own."""
    parts = dict.fromkeys([*range(spec.blocks), None], 0)
    owners = {x.parameter: x.block for x in spec.linears} | {x.name: x.block for x in spec.fixed}
    for name, shape in spec.parameter_shapes.items():
        if spec.tied or name != spec.head.parameter:
            parts[owners[name]] += 4 * math.prod(shape)
    around = parts.pop(None)
    return max(parts.values()), around


@pytest.mark.parametrize(
    "family", ["llama", "qwen3", "qwen3_moe", "gpt2", "gemma2", "mixtral", "gpt_neox", "opt"]
)
def test_equal_bit_for_bit_within_a_block_and_the_embedding(family, tmp_path, monkeypatch):
    # Three micro-batches, the last of another shape.
    monkeypatch.setattr(statistics, "_TOKENS_AT_ONCE", 96)
    monkeypatch.setattr(covariance, "_TOKENS_AT_ONCE", 96)
    folder, windows, seen = build_tiny(family, tmp_path), make_windows(5), []
    spec = read_model(folder)
    whole, streamed = load_dense(folder, spec), open_streamed(folder, spec)
    block, around = part_bytes(spec)
    watch(streamed, seen)
    wanted = gather(whole, spec, windows, WeightSource(None, whole, spec))
    found = gather(streamed, spec, windows, streamed.source)
    assert equal(found.tensors, wanted.tensors)
    assert f"moment/{spec.head.name}" in found.tensors
    assert 0 < min(seen) <= max(seen) <= block + around
    assert block in seen  # the embedding leaves before the blocks work
    wanted = dict(gather_covariances(whole, spec, windows))
    assert equal(dict(gather_covariances(streamed, spec, windows)), wanted)
    assert max(seen) <= block + around
    assert streamed.resident_bytes == 0
    assert all(p.is_meta for p in streamed.skeleton.parameters())


def test_a_block_read_ahead_is_the_second_one(tmp_path):
    folder, windows = build_tiny("llama", tmp_path), make_windows()
    spec = read_model(folder)
    plain, ahead = open_streamed(folder, spec), open_streamed(folder, spec, prefetch=True)
    block, around = part_bytes(spec)
    seen = []
    for module in ahead.skeleton.modules():
        module.register_forward_hook(lambda *_: seen.append(ahead.resident_bytes))
    assert equal(
        gather(ahead, spec, windows, ahead.source).tensors, gather(plain, spec, windows, plain.source).tensors
    )
    with ahead.block(0):
        ahead._next[1].result()
        assert ahead.resident_bytes == 2 * block
    with ahead.block(2) as last:  # nobody asked for the second one, and none follows
        assert ahead.resident_bytes == block
        assert all(torch.isfinite(p).all() and not p.is_meta for p in last.parameters())
    assert ahead.resident_bytes == 0
    assert max(seen) <= 2 * block + around


def test_a_block_may_be_entered_twice_and_leaves_on_errors(tmp_path):
    folder = build_tiny("qwen3_moe", tmp_path)
    spec = read_model(folder)
    whole, streamed = load_dense(folder, spec), open_streamed(folder, spec)
    wanted = dict(whole.get_submodule("model.layers.1").named_parameters())
    with streamed.block(1):
        with streamed.block(1) as block:
            assert equal(dict(block.named_parameters()), wanted)
        assert equal(dict(block.named_parameters()), wanted)
    with pytest.raises(IndexError), streamed.block(0) as block:
        block.get_parameter("self_attn.q_proj.weight")[10**6]
    assert streamed.resident_bytes == 0
    assert streamed.get_submodule("model.layers.1.mlp.experts").gate_up_proj.is_meta


def test_learned_rounding_trains_a_block_that_is_there_for_a_while(tmp_path):
    folder, windows = build_tiny("llama", tmp_path), make_windows()
    spec = read_model(folder)
    formats = {x.name: THREE for x in spec.block_linears if x.block == 1}
    settings = RoundingSettings(steps=4, batch_windows=2)
    streamed = open_streamed(folder, spec)
    for sequential in (False, True):
        wanted = dict(tune_model(load_dense(folder, spec), spec, windows, formats, settings, sequential))
        found = dict(tune_model(streamed, spec, windows, formats, settings, sequential))
        assert found.keys() == wanted.keys() == formats.keys()
        assert all(torch.equal(found[x].codes, wanted[x].codes) for x in wanted)
    assert streamed.resident_bytes == 0


def test_what_does_not_fit_the_budget_lies_in_mapped_files(tmp_path):
    folder, windows = build_tiny("gemma3", tmp_path), make_windows(5)
    spec = read_model(folder)
    model = open_streamed(folder, spec)
    one = 48 * spec.hidden_size * 4
    few = HiddenStates(budget_bytes=2 * one, folder=tmp_path)
    streams = [BlockStream(model, spec, windows, 48), BlockStream(model, spec, windows, 48, few)]
    assert (few.resident_bytes, few.mapped_bytes, len(few)) == (2 * one, 3 * one, 5)
    for _ in range(spec.blocks):
        for stream in streams:
            stream.advance()
    assert all(torch.equal(x, y) for x, y in zip(*(stream.hidden for stream in streams), strict=True))
    assert not list(tmp_path.glob("hidden-states-*"))


def test_what_follows_the_last_block_comes_last(tmp_path):
    folder = build_tiny("llama", tmp_path)
    spec = read_model(folder)
    with pytest.raises(RuntimeError, match="block 0 comes next"):
        BlockStream(open_streamed(folder, spec), spec, make_windows(), 96).leave()


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_a_bank_without_the_model_has_the_same_files(family, tmp_path):
    folder = build_tiny(family, tmp_path / "model", dtype="bfloat16")
    spec = read_model(folder)
    restrictions = Restrictions(
        bits=(3,), embedding_bits=(8,), group_size=GROUP, methods=("rtn", "gptq", "awq")
    )
    space = SearchSpace(spec, FakeLegality(), restrictions)
    open_bank(tmp_path / "whole", folder, load_dense(folder, spec)).build(space)
    open_bank(tmp_path / "streamed", folder).build(space)
    found = contents(tmp_path / "streamed")
    assert all(any(method in name for name in found) for method in ("rtn", "gptq", "awq"))
    assert found == contents(tmp_path / "whole")


def test_an_interrupted_bank_goes_on_where_it_was(tmp_path):
    folder = build_tiny("llama", tmp_path / "model")
    spec = read_model(folder)
    space = SearchSpace(spec, FakeLegality(), Restrictions(bits=(3,), embedding_bits=(8,), methods=("rtn",)))
    open_bank(tmp_path / "whole", folder, load_dense(folder, spec)).build(space)

    def stop(_, done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_bank(tmp_path / "bank", folder).build(space, stop)
    before = {name: (tmp_path / "bank" / name).stat().st_mtime_ns for name in contents(tmp_path / "bank")}
    assert len(before) < len(contents(tmp_path / "whole"))
    again = open_bank(tmp_path / "bank", folder)
    again.build(space)
    assert contents(tmp_path / "bank") == contents(tmp_path / "whole")
    del before["entries.jsonl"]
    assert all((tmp_path / "bank" / name).stat().st_mtime_ns == time for name, time in before.items())


def test_a_pruned_is_cut_out_of_what_was_never_loaded(tmp_path):
    folder = build_tiny("qwen3", tmp_path / "model")
    spec = read_model(folder)
    pruned = PrunedShape(blocks=(0, 2), kv_heads=1, ffn_channels=128)
    config = CompressionConfig(pruned=pruned, layers=choices(spec, blocks=(0,)))
    whole = open_bank(tmp_path / "bank", folder, load_dense(folder, spec))
    write_checkpoint(whole, config, tmp_path / "whole", ExportCard(folder))
    streamed = open_bank(tmp_path / "streamed-bank", folder)
    streamed.build_for(config)
    write_checkpoint(streamed, config, tmp_path / "streamed", ExportCard(folder))
    assert contents(tmp_path / "streamed") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("family", "method"), [("llama", "gptq"), ("qwen3_moe", "rtn")])
def test_compressing_a_checkpoint_is_the_export_of_its_candidate(family, method, tmp_path):
    folder = build_tiny(family, tmp_path / "model", dtype="bfloat16")
    spec = read_model(folder)
    config = CompressionConfig(layers=choices(spec, method))
    whole = open_bank(tmp_path / "bank", folder, load_dense(folder, spec))
    whole.build_for(config)
    write_checkpoint(whole, config, tmp_path / "whole", ExportCard(folder))
    streamed = open_bank(tmp_path / "streamed-bank", folder)
    streamed.build_for(config)
    write_checkpoint(streamed, config, tmp_path / "streamed", ExportCard(folder))
    assert contents(tmp_path / "streamed") == contents(tmp_path / "whole")


def test_checkpoints_in_other_layouts(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = build_tiny("gpt2", tmp_path)
    spec, file = read_model(folder), folder / "model.safetensors"
    whole, tensors = load_dense(folder, spec), load_file(file)
    save_file({name.removeprefix("transformer."): x for name, x in tensors.items()}, file)
    base = open_streamed(folder, spec)
    assert all(torch.equal(base.source.tensor(x), whole.get_parameter(x)) for x in spec.parameter_shapes)
    save_file({name.replace("c_fc.weight", "c_fc.matrix"): x for name, x in tensors.items()}, file)
    with pytest.raises(ModelError, match=r"h\.0\.mlp\.c_fc\.weight .* part by part"):
        open_streamed(folder, spec)


def test_what_transformers_refuses_is_refused(tmp_path):
    folder = build_tiny("llama", tmp_path)
    spec, file = read_model(folder), folder / "config.json"
    file.write_text(file.read_text().replace('"llama"', '"nothing-like-it"'))
    with pytest.raises(ModelError, match="cannot load it"):
        open_streamed(folder, spec)


def test_experts_cut_short_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = build_tiny("mixtral", tmp_path)
    spec, file = read_model(folder), folder / "model.safetensors"
    tensors = load_file(file)
    name = next(x for x in tensors if "experts.3.w1" in x)
    tensors["more"] = tensors.pop(name)
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"experts\.gate_up_proj .* part by part"):
        open_streamed(folder, spec)


def test_multimodal_gemma3_is_streamed_without_its_vision_tower(tmp_path):
    import transformers

    text = transformers.Gemma3TextConfig(**FAMILIES["gemma3"][2]).to_dict()
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 16, "vision_use_head": False}
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    spec = read_model(tmp_path)
    whole, streamed = load_dense(tmp_path, spec), open_streamed(tmp_path, spec)
    wanted = gather(whole, spec, make_windows(), WeightSource(None, whole, spec))
    seen = []
    watch(streamed, seen)
    assert equal(gather(streamed, spec, make_windows(), streamed.source).tensors, wanted.tensors)
    block, around = part_bytes(spec)
    tower = sum(4 * math.prod(x.shape) for x in spec.fixed if "vision" in x.name or "multi_modal" in x.name)
    assert max(seen) == block + around - tower


_PROGRAM = """
import ctypes, re, sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from paretune.compressors.bank import Bank
from paretune.compressors.windows import TokenWindows
from paretune.spaces.architectures import read_model
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace
from tests.fakes import FakeLegality

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def build(folder, spec):
    windows = TokenWindows.of(torch.arange(64).view(2, 32), "calibration")
    space = SearchSpace(spec, FakeLegality(), Restrictions(bits=(4,), embedding_bits=(8,), methods=("rtn",)))
    Bank.open(folder / "bank", folder, None, spec, "hash", windows).build(space)
    return spec

build(Path(sys.argv[1]), read_model(Path(sys.argv[1])))  # imports and thread pools are no part of the question
ctypes.CDLL(None).malloc_trim(0)
spec = read_model(Path(sys.argv[2]))
before, peak, done = anonymous(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.001)

watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
build(Path(sys.argv[2]), spec)
done = True
watcher.join()
print(peak - before, 4 * spec.parameters)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_the_peak_of_a_bank_is_less_than_a_quarter_of_the_model(tmp_path):
    """24 blocks of 2 MB in float32; two of them are a twelfth, and there are modules, statistics and the bank."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    small = build_tiny("llama", tmp_path / "small", dtype="bfloat16")
    large = build_tiny("llama", tmp_path / "large", dtype="bfloat16", num_hidden_layers=24, **sizes)
    root = Path(__file__).parents[2]
    # Matrices this small would stay on the heap when they are freed; those of large models never do.
    environment = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    found = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(small), str(large)],
        cwd=root,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    peak, model = map(int, found.stdout.split())
    assert model > 24 * 2_000_000
    assert 0 < peak <= model / 4

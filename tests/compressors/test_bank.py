"""The bank: what it holds, whose it is, how it goes on, how large it gets."""

import hashlib
import itertools
import json

import pytest
import torch

from paretune.compressors.bank import Bank, offered_entries
from paretune.compressors.entries import Entry
from paretune.compressors.quantizers import find_quantizer
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import WHOLE, PrunedShape
from paretune.spaces.errors import ModelError, RunError
from paretune.spaces.formats import integer_format
from paretune.spaces.patterns import Restrictions
from paretune.spaces.schema import sealed, unsealed
from paretune.spaces.space import SearchSpace
from tests.compressors.conftest import GROUP, made_now, make_bench, make_windows
from tests.fakes import FakeLegality

SMALL = Restrictions(
    methods=("weighted", "hqq"),
    bits=(3, 4, 16),
    embedding_bits=(4, 16),
    group_size=GROUP,
    kv_heads=(1,),
    ffn_channels=(192, 128),
)
Q, DOWN = "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"


def choice(bits=4, method="rtn", sparsity=None):
    return LayerChoice(
        weight=integer_format(bits, GROUP, symmetric=method != "hqq"), method=method, sparsity=sparsity
    )


def space_of(bench, restrictions=SMALL):
    return SearchSpace(bench.spec, FakeLegality(), restrictions, bench.bank.block_order)


def reopen(bench, **changes):
    arguments = {"model_hash": bench.bank.identity.model, "calibration": make_windows(), **changes}
    return Bank.open(bench.bank.folder, bench.folder, bench.model, bench.spec, **arguments)


@pytest.mark.parametrize("method", ["rtn", "hqq", "weighted"])
def test_an_entry_is_what_the_quantizer_makes(llama, method):
    weight = llama.model.get_submodule(Q).weight.data
    wanted = choice(3, method)
    seen = llama.bank.statistics.layer(Q)
    expected = find_quantizer(method).quantize(weight, wanted.weight, seen, torch.bfloat16)
    for _ in range(2):  # made, then read
        found = llama.bank.quantized(Q, wanted, WHOLE)
        assert torch.equal(found.codes, expected.codes)
        assert torch.equal(found.scales, expected.scales)
        assert found.zeros is None if expected.zeros is None else torch.equal(found.zeros, expected.zeros)
        assert torch.equal(llama.bank.tensor(Q, wanted), expected.dequantize())


def test_dense_choices_hold_nothing(llama):
    assert llama.bank.quantized(Q, LayerChoice()) is None
    assert torch.equal(llama.bank.tensor(Q), llama.model.get_submodule(Q).weight)
    assert not (llama.bank.folder / "entries").exists()


def test_building_makes_every_plain_entry_once(llama):
    calls = []
    space = space_of(llama)
    llama.bank.build(space, lambda what, done, total: calls.append((what, done, total)))
    layers = len(llama.spec.block_linears)
    total = layers * 2 * 2 + 2 * 2  # 3 and 4 bits by rtn and hqq; embedding and head at 4 bits by both
    reached = [done for _, done, _ in calls]
    assert (reached[0], reached[-1]) == (0, total)
    assert all(0 < b - a <= 2 for a, b in itertools.pairwise(reached))  # the widths of one method together
    assert {t for _, _, t in calls} == {total}
    before = {file: file.stat().st_mtime_ns for file in llama.bank.folder.rglob("*")}
    calls.clear()
    reopen(llama).build(space, lambda *call: calls.append(call))
    assert calls == []
    assert {file: file.stat().st_mtime_ns for file in llama.bank.folder.rglob("*")} == before


def test_an_interrupted_build_goes_on_where_it_was(llama):
    class KilledError(Exception):
        pass

    reached = []

    def progress(what, done, total):
        reached.append(done)
        if done >= 7:
            raise KilledError

    space = space_of(llama)
    with pytest.raises(KilledError):
        llama.bank.build(space, progress)
    index = llama.bank.folder / "entries.jsonl"
    done = {file: file.stat().st_mtime_ns for file in (llama.bank.folder / "entries").rglob("*.safetensors")}
    made = reached[-1]
    assert len(done) == made
    index.write_bytes(index.read_bytes()[:-20])  # the last line was being written
    bank = reopen(llama)
    assert bank.hash == llama.bank.hash
    seen = []
    bank.build(space, lambda what, done, total: seen.append(done))
    assert seen[0] == made - 1
    unchanged = [file for file, time in done.items() if file.stat().st_mtime_ns == time]
    assert len(unchanged) == made - 1
    fresh = [json.loads(line)["name"] for line in index.read_text().splitlines() if line.endswith("}")]
    assert len(set(fresh)) == seen[-1]
    third = reopen(llama)
    third.build(space, lambda *_: pytest.fail("everything is there"))


def test_leftovers_of_a_killed_write_are_no_entries(llama):
    entry = Entry.of(llama.spec, llama.spec.linear(Q), choice(), WHOLE)
    file = llama.bank.folder / "entries" / f"{entry.name}.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half of a file")  # renamed, but not yet named in the index
    expected = find_quantizer("rtn").quantize(llama.model.get_submodule(Q).weight, choice().weight)
    assert torch.equal(reopen(llama).quantized(Q, choice()).codes, expected.codes)


def test_another_models_bank_is_refused(llama):
    for changes, what in (
        ({"model_hash": "0" * 64}, "another model"),
        ({"calibration": make_windows(seed=9)}, "another calibration text"),
        ({"scale_dtype": "float32"}, "another dtype of scales"),
    ):
        with pytest.raises(RunError, match=what) as caught:
            reopen(llama, **changes)
        assert caught.value.value
        assert "folder" in caught.value.remedy
    assert reopen(llama).hash == llama.bank.hash


def test_the_bank_of_an_older_method_is_refused(llama):
    file = llama.bank.folder / "bank.json"
    identity = unsealed(json.loads(file.read_text()))
    identity["methods"]["rtn"] = "0"
    file.write_text(json.dumps(sealed(identity)))
    with pytest.raises(RunError, match="version 0 of rtn"):
        reopen(llama)


@pytest.mark.parametrize("name", ["bank.json", "statistics.safetensors"])
def test_damage_is_refused_by_name(llama, name):
    file = llama.bank.folder / name
    file.write_bytes(file.read_bytes()[:-8] + b"damaged!")
    with pytest.raises(RunError, match=name):
        reopen(llama)


def test_a_damaged_entry_is_refused(llama):
    llama.bank.quantized(Q, choice())
    file = next((llama.bank.folder / "entries").rglob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match=Q):
        reopen(llama).quantized(Q, choice())


def test_the_index_has_the_hash_and_size_of_every_file(llama):
    llama.bank.build(space_of(llama))
    lines = (llama.bank.folder / "entries.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        content = (llama.bank.folder / "entries" / f"{line['name']}.safetensors").read_bytes()
        assert hashlib.sha256(content).hexdigest() == line["sha256"]
        assert len(content) == line["bytes"]


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "phi3"])
def test_no_entry_is_bigger_than_was_reckoned(family, tmp_path):
    bench = make_bench(family, tmp_path, dtype="bfloat16", **({} if family == "llama" else {"seed": 2}))
    restrictions = SMALL.model_copy(
        update={"ffn_channels": (64,) if family == "qwen3_moe" else (192, 128), "sparsity": (0.0, 0.25, 0.5)}
    )
    space = space_of(bench, restrictions)
    bench.bank.build(space)
    for entry in offered_entries(bench.spec, space):  # the worst that a search can ask for: everything
        bench.bank.tensor(entry.linear.name, entry.choice, entry.pruned)
        assert bench.bank._store.path(entry.name).stat().st_size <= entry.file_bytes()


def test_codes_are_compact(llama):
    entry = Entry.of(llama.spec, llama.spec.linear(Q), choice(3), WHOLE)
    llama.bank.quantized(Q, choice(3))
    file = llama.bank._store.path(entry.name)
    rows, columns = 128, 128
    assert file.stat().st_size <= rows * columns * 3 // 8 + rows * (columns // GROUP) * 2 + 640


def test_pruned_then_quantized_keeps_every_zero(llama):
    half = Sparsity(fraction=0.5)
    for method in ("rtn", "hqq"):
        pruned = llama.bank.tensor(Q, LayerChoice(sparsity=half))
        values = llama.bank.tensor(Q, choice(4, method, half))
        assert ((pruned == 0).sum(dim=1) == 64).all()
        assert (values[pruned == 0] == 0).all()
        found = llama.bank.quantized(Q, choice(4, method, half))
        zeros = torch.zeros(1) if found.zeros is None else found.zeros.float().repeat_interleave(GROUP, dim=1)
        assert (found.codes.float() == zeros)[pruned == 0].all()


def test_cut_entries_are_cut_before_they_are_pruned_and_quantized(llama):
    pruned = PrunedShape(ffn_channels=128)
    half = Sparsity(fraction=0.5)
    kept = torch.argsort(llama.bank.statistics.importance("channels", 1), descending=True)[:128].sort().values
    weight = llama.model.get_submodule(DOWN).weight.data[:, kept]
    assert torch.equal(llama.bank.tensor(DOWN, LayerChoice(), pruned), weight)
    from paretune.compressors.pruners import find_pruner
    from paretune.compressors.statistics import LayerStatistics

    seen = LayerStatistics(llama.bank.statistics.layer(DOWN).second_moment[kept])
    masked = weight * find_pruner("wanda").mask(weight, half, seen)
    expected = find_quantizer("rtn").quantize(masked, choice().weight)
    assert torch.equal(llama.bank.quantized(DOWN, choice(4, "rtn", half), pruned).codes, expected.codes)


def test_cuts_that_do_not_touch_a_layer_share_its_entry(llama):
    linear = llama.spec.linear(Q)
    names = {
        Entry.of(llama.spec, linear, choice(), pruned).name
        for pruned in (WHOLE, PrunedShape(blocks=(0, 1)), PrunedShape(ffn_channels=128))
    }
    assert len(names) == 1
    assert Entry.of(llama.spec, linear, choice(), PrunedShape(kv_heads=1)).name not in names


def test_experts_have_their_own_rows(mixture):
    layer = "model.layers.0.mlp.experts.gate_up_proj"
    weight = mixture.model.get_parameter(layer).data
    values = mixture.bank.tensor(layer, choice())
    assert values.shape == weight.shape
    for expert in range(4):
        found = mixture.bank.quantized(layer, choice(), WHOLE, expert)
        expected = find_quantizer("rtn").quantize(weight[expert], choice().weight, scale_dtype=torch.float32)
        assert torch.equal(found.codes, expected.codes)
        assert torch.equal(values[expert], expected.dequantize())


def test_conv1d_is_quantized_along_its_inputs(tmp_path):
    bench = make_bench("gpt2", tmp_path)
    layer = "transformer.h.0.mlp.c_fc"
    weight = bench.model.get_submodule(layer).weight.data  # (in, out)
    expected = find_quantizer("rtn").quantize(weight.t(), choice().weight, scale_dtype=torch.float32)
    assert torch.equal(bench.bank.quantized(layer, choice()).codes, expected.codes)
    assert torch.equal(bench.bank.tensor(layer, choice()), expected.dequantize().t())


def test_slabs_change_nothing(llama, monkeypatch):
    from paretune.compressors import entries

    half = Sparsity(fraction=0.5)
    whole = llama.bank.quantized(DOWN, choice(3, "hqq", half), PrunedShape(ffn_channels=192))
    monkeypatch.setattr(entries, "weights_at_once", lambda device: 1)
    monkeypatch.setattr(find_quantizer("hqq"), "slab_weights", 700)
    entry = Entry.of(
        llama.spec, llama.spec.linear(DOWN), choice(3, "hqq", half), PrunedShape(ffn_channels=192)
    )
    again = entries.read_quantized(entry, made_now(llama.bank, entry))
    assert torch.equal(again.codes, whole.codes)
    assert torch.equal(again.scales, whole.scales)


def test_a_weight_that_is_no_number_is_refused_by_its_layer(tmp_path):
    from safetensors.torch import load_file, save_file

    bench = make_bench("llama", tmp_path)
    file = bench.folder / "model.safetensors"
    tensors = load_file(file)
    tensors[f"{Q}.weight"][3, 3] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=Q):
        bench.bank.build(space_of(bench))
    assert not list(bench.bank.folder.rglob("*.tmp"))


def test_a_full_disk_is_refused_and_leaves_no_half_written_entry(llama, monkeypatch):
    import errno
    from pathlib import Path

    original = Path.open

    def full(path, mode="r", *args, **kwargs):
        if path.name.endswith(".tmp"):
            original(path, mode, *args, **kwargs).close()
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, mode, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(RunError, match="No space left"):
            llama.bank.build(space_of(llama))
    assert not list(llama.bank.folder.rglob("*.tmp"))
    reopen(llama).build(space_of(llama))


def test_fixed_tensors_are_cut_where_a_pruned_cuts_them(tmp_path):
    bench = make_bench("qwen2", tmp_path)
    name = "model.layers.0.self_attn.k_proj.bias"
    whole = bench.bank.fixed(name)
    assert torch.equal(whole, bench.model.get_parameter(name))
    best = int(bench.bank.statistics.importance("heads", 0).argmax())
    assert torch.equal(bench.bank.fixed(name, PrunedShape(kv_heads=1)), whole.view(2, -1)[best])
    norm = "model.layers.0.input_layernorm.weight"
    assert torch.equal(bench.bank.fixed(norm, PrunedShape(kv_heads=1)), bench.bank.fixed(norm))

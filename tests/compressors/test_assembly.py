"""Candidates of every family: the assembled model is the one that its export would be."""

import json
import re

import pytest
import torch

from paretune.compressors.entry_store import Held
from paretune.spaces.architectures import pruned_config
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError, ModelError
from paretune.spaces.formats import integer_format
from paretune.spaces.size import kept_linears
from tests.compressors.conftest import GROUP, make_bench
from tests.models import FAMILIES

IDS = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(5))
FOUR = LayerChoice(weight=integer_format(4, GROUP), method="rtn")


def pruned_sizes_of(spec):
    """Every kind of cut that the family allows, alone and together."""
    channels = spec.ffn_size // 2
    cuts = {"blocks": (0, 2), "kv_heads": spec.kv_heads // 2, "ffn_channels": channels, "hidden": 96}
    for cut in spec.uncuttable:
        cuts.pop(cut.kind)
    return [PrunedShape.model_validate({kind: value}) for kind, value in cuts.items()] + [
        PrunedShape.model_validate(cuts)
    ]


def expected_model(bench, config):
    """A model that transformers makes from the pruned model's configuration, filled from the bank."""
    values = json.loads((bench.folder / "config.json").read_text())
    cut = pruned_config(values, bench.spec, config.pruned)
    fresh_config = type(bench.model.config).from_dict(cut)
    fresh_config._attn_implementation = bench.model.config._attn_implementation
    model = type(bench.model)(fresh_config).eval()
    kept = config.pruned.blocks or tuple(range(bench.spec.blocks))
    parameters = dict(model.named_parameters())

    def own_name(name):
        path = re.escape(bench.spec.block_path)
        return re.sub(
            rf"^{path}\.(\d+)\.", lambda m: f"{bench.spec.block_path}.{kept.index(int(m[1]))}.", name
        )

    filled = set()
    for linear in kept_linears(bench.spec, config):
        value = bench.bank.tensor(linear.name, config.choice(linear.name), config.pruned)
        parameters[own_name(linear.parameter)].data.copy_(value)
        filled.add(own_name(linear.parameter))
    for fixed in bench.spec.fixed:
        if config.keeps_block(fixed.block):
            parameters[own_name(fixed.name)].data.copy_(bench.bank.fixed(fixed.name, config.pruned))
            filled.add(own_name(fixed.name))
    assert filled == set(parameters)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_sizes_are_what_their_configuration_describes(family, tmp_path):
    bench = make_bench(family, tmp_path)
    dense = bench.model(IDS).logits.clone()
    for pruned in pruned_sizes_of(bench.spec):
        for choice in (LayerChoice(), FOUR):
            layers = [x.name for x in bench.spec.block_linears if x.block in (pruned.blocks or (0, 1, 2))]
            config = CompressionConfig(layers=dict.fromkeys(layers, choice), pruned=pruned)
            model = bench.assembler.apply(config)
            assert model is bench.model
            torch.testing.assert_close(model(IDS).logits, expected_model(bench, config)(IDS).logits)
            assert not torch.allclose(model(IDS).logits, dense, atol=1e-3)
    assert torch.equal(bench.assembler.apply(DENSE_CONFIG)(IDS).logits, dense)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_can_generate_with_a_cache(family, tmp_path):
    bench = make_bench(family, tmp_path)
    model = bench.assembler.apply(CompressionConfig(pruned=pruned_sizes_of(bench.spec)[-1]))
    whole = model(IDS).logits
    state = model(IDS[:, :30], use_cache=True).past_key_values
    assert state.get_seq_length() == 30
    rest = model(IDS[:, 30:], past_key_values=state, use_cache=True).logits
    torch.testing.assert_close(rest, whole[:, 30:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3", "qwen2"])
def test_kept_blocks_keep_their_window(family, tmp_path):
    bench = make_bench(family, tmp_path)
    for blocks in ((1, 2), (0, 1), (1,)):
        config = CompressionConfig(pruned=PrunedShape(blocks=blocks))
        torch.testing.assert_close(
            bench.assembler.apply(config)(IDS).logits, expected_model(bench, config)(IDS).logits
        )


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_candidates_hold_what_the_bank_holds(family, tmp_path):
    bench = make_bench(family, tmp_path)
    config = CompressionConfig(layers={x.name: FOUR for x in bench.spec.block_linears})
    bench.assembler.apply(config)
    for linear in bench.spec.block_linears:
        parameter = bench.model.get_parameter(linear.parameter)
        assert torch.equal(parameter.data, bench.bank.tensor(linear.name, FOUR))
    assert bench.assembler.config == config


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3_moe"])
def test_cutting_what_does_nothing_changes_nothing(family, tmp_path):
    """Channels whose gate and up are zero, and heads whose output columns are, can go without a trace."""
    from safetensors.torch import load_file, save_file

    bench = make_bench(family, tmp_path / "first")
    spec, file = bench.spec, bench.folder / "model.safetensors"
    tensors = load_file(file)
    width = spec.head_dim * spec.heads // spec.kv_heads
    dead_head, dead_channels = 1, torch.arange(0, spec.ffn_size, 2)
    for name, tensor in tensors.items():
        if re.search(r"(gate_proj|up_proj)\.weight$", name):
            tensor[dead_channels] = 0.0
        if name.endswith("gate_up_proj.weight"):
            tensor[dead_channels] = 0.0
            tensor[dead_channels + spec.ffn_size] = 0.0
        if name.endswith("o_proj.weight"):
            tensor[:, dead_head * width : (dead_head + 1) * width] = 0.0
    save_file(tensors, file, metadata={"format": "pt"})
    from paretune.compressors.assembly import Assembler
    from paretune.compressors.bank import Bank
    from paretune.compressors.loading import load_dense
    from tests.compressors.conftest import make_windows

    model = load_dense(bench.folder, spec)
    bank = Bank.open(tmp_path / "bank", bench.folder, model, spec, "hash", make_windows())
    dense = model(IDS).logits.clone()
    pruned = PrunedShape(kv_heads=1, ffn_channels=spec.ffn_size // 2)
    cut = Assembler(model, spec, bank).apply(CompressionConfig(pruned=pruned))
    torch.testing.assert_close(cut(IDS).logits, dense, atol=2e-5, rtol=1e-4)
    assert sum(p.numel() for p in cut.parameters()) < spec.parameters


def test_a_pruned_of_everything_is_the_dense_model(llama):
    dense = llama.model(IDS).logits.clone()
    everything = PrunedShape(blocks=(0, 1, 2), kv_heads=2, ffn_channels=256)
    assert torch.equal(llama.assembler.apply(CompressionConfig(pruned=everything))(IDS).logits, dense)


def test_the_model_says_what_it_is_while_it_is_cut(llama):
    before = llama.model.config.to_dict()
    pruned = PrunedShape(blocks=(0, 2), kv_heads=1, ffn_channels=128)
    model = llama.assembler.apply(CompressionConfig(pruned=pruned))
    assert model.config.num_hidden_layers == 2
    assert model.config.num_key_value_heads == 1
    assert model.config.num_attention_heads == 2
    assert model.config.intermediate_size == 128
    assert model.config.head_dim == 32
    assert len(model.model.layers) == 2
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1]
    assert model.model.layers[0].mlp.down_proj.in_features == 128
    llama.assembler.apply(DENSE_CONFIG)
    assert llama.model.config.to_dict() == before
    assert [layer.self_attn.layer_idx for layer in llama.model.model.layers] == [0, 1, 2]
    assert llama.model.model.layers[0].mlp.down_proj.in_features == 256


def test_only_what_changed_is_swapped(llama):
    first, second = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"
    llama.assembler.apply(CompressionConfig(layers={first: FOUR}))
    assert llama.assembler.swapped == 1
    pointer = llama.model.get_submodule(first).weight.data_ptr()
    llama.assembler.apply(CompressionConfig(layers={first: FOUR, second: FOUR}))
    assert llama.assembler.swapped == 1
    assert llama.model.get_submodule(first).weight.data_ptr() == pointer
    llama.assembler.apply(CompressionConfig(layers={second: FOUR}, kv=KVFormat(num_bits=8)))
    assert llama.assembler.swapped == 1
    llama.assembler.apply(DENSE_CONFIG)
    assert llama.assembler.swapped == 1
    llama.assembler.apply(CompressionConfig(layers={first: FOUR}))
    assert llama.model.get_submodule(first).weight.data_ptr() == pointer  # the copy was kept


def test_the_dense_model_comes_back_bit_by_bit_and_by_pointer(llama):
    pointers = {name: p.data_ptr() for name, p in llama.model.named_parameters()}
    values = {name: p.clone() for name, p in llama.model.named_parameters()}
    for pruned in pruned_sizes_of(llama.spec):
        layers = {"model.layers.0.mlp.up_proj": FOUR, "model.layers.2.self_attn.o_proj": FOUR}
        layers["model.layers.0.self_attn.q_proj"] = LayerChoice(sparsity=Sparsity(fraction=0.5))
        llama.assembler.apply(CompressionConfig(layers=layers, pruned=pruned, kv=KVFormat(num_bits=8)))
    llama.assembler.apply(DENSE_CONFIG)
    assert {name: p.data_ptr() for name, p in llama.model.named_parameters()} == pointers
    assert all(torch.equal(p, values[name]) for name, p in llama.model.named_parameters())


@pytest.mark.parametrize("budget", [0, 40_000, 10**9])
def test_a_budget_bounds_the_dense_copies_and_changes_no_number(budget, tmp_path):
    bench = make_bench("llama", tmp_path, budget_bytes=budget)
    configs = [
        CompressionConfig(layers={x.name: FOUR for x in bench.spec.block_linears if x.block == block})
        for block in (0, 1, 2, 0)
    ]
    logits = [bench.assembler.apply(config)(IDS).logits.clone() for config in configs]
    assert torch.equal(logits[0], logits[3])
    assert bench.assembler._copies.held_bytes <= budget
    for linear in bench.spec.block_linears:
        if linear.block == 0:
            assert torch.equal(
                bench.model.get_parameter(linear.parameter), bench.bank.tensor(linear.name, FOUR)
            )


def test_the_least_recently_used_copy_goes_first():
    copies, made = Held(100, lambda tensor: tensor.nbytes), []

    def make(name):
        def make_one():
            made.append(name)
            return torch.zeros(10)  # 40 bytes

        return make_one

    for name in ("a", "b", "a", "c", "a", "b"):
        copies.get(name, make(name))
    assert made == ["a", "b", "c", "b"]
    assert copies.held_bytes == 80


def test_tied_embedding_and_head_move_together(tmp_path):
    bench = make_bench("llama", tmp_path, tie_word_embeddings=True)
    embedding, head = bench.spec.embedding.name, bench.spec.head.name
    bench.assembler.apply(CompressionConfig(layers={embedding: FOUR}))
    assert torch.equal(bench.model.lm_head.weight, bench.bank.tensor(embedding, FOUR))
    assert bench.model.lm_head.weight is bench.model.model.embed_tokens.weight
    bench.assembler.apply(CompressionConfig(layers={embedding: FOUR, head: FOUR}))
    with pytest.raises(ConfigurationError, match="one tensor"):
        bench.assembler.apply(CompressionConfig(layers={head: FOUR}))


def test_what_cannot_be_assembled_is_refused_and_changes_nothing(tmp_path):
    bench = make_bench("gpt2", tmp_path)
    before = bench.model(IDS).logits.clone()
    layer = bench.spec.block_linears[0].name
    for config, error in (
        (CompressionConfig(layers={"model.nonesuch": FOUR}), ModelError),
        (CompressionConfig(layers={layer: FOUR}, pruned=PrunedShape(kv_heads=1)), ConfigurationError),
        (CompressionConfig(layers={layer: FOUR}, pruned=PrunedShape(blocks=(1, 2))), ConfigurationError),
        (CompressionConfig(layers={layer: FOUR}, pruned=PrunedShape(blocks=(0, 7))), ConfigurationError),
    ):
        with pytest.raises(error):
            bench.assembler.apply(config)
        assert torch.equal(bench.model(IDS).logits, before)


def test_assembling_inside_inference_mode(llama):
    with torch.inference_mode():
        llama.assembler.apply(CompressionConfig(layers={x.name: FOUR for x in llama.spec.block_linears}))
    llama.assembler.apply(DENSE_CONFIG)
    config = CompressionConfig(layers={x.name: FOUR for x in llama.spec.block_linears})
    assert not llama.assembler.apply(config).model.layers[0].mlp.up_proj.weight.is_inference()


def test_other_precisions(tmp_path):
    """A model that computes in bf16 gets its copies in bf16."""
    from paretune.compressors.assembly import Assembler
    from paretune.compressors.bank import Bank
    from paretune.compressors.loading import load_dense
    from paretune.spaces.architectures import read_model
    from tests.compressors.conftest import make_windows
    from tests.models import build_tiny

    folder = build_tiny("llama", tmp_path / "model", dtype="bfloat16")
    spec = read_model(folder)
    model = load_dense(folder, spec, dtype=torch.bfloat16)
    bank = Bank.open(tmp_path / "bank", folder, model, spec, "hash", make_windows())
    config = CompressionConfig(
        layers={x.name: FOUR for x in spec.block_linears}, pruned=PrunedShape(kv_heads=1)
    )
    assembled = Assembler(model, spec, bank).apply(config)
    assert {p.dtype for p in assembled.parameters()} == {torch.bfloat16}
    assert torch.isfinite(assembled(IDS).logits).all()

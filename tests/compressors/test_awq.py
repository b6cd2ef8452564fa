"""AWQ: the scaled block is the same function, errors are smaller, and a block is swapped, stored and chosen whole."""

from types import SimpleNamespace

import pytest
import torch

from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.covariance import gather_covariances, keeper
from paretune.compressors.loading import load_checkpoint, model_hash
from paretune.compressors.quantizers import find_quantizer
from paretune.compressors.quantizers.awq import group_covariances
from paretune.compressors.scale_search import Readers, find_scales
from paretune.compressors.scaled_block import scale_block
from paretune.compressors.statistics import LayerStatistics
from paretune.compressors.weight_source import WeightSource
from paretune.engines.checkpoint.writer import write_checkpoint
from paretune.engines.engine import ExportCard
from paretune.pipeline.refining import _trainable
from paretune.spaces.checking import check_configuration
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError, ModelError, SpaceError
from paretune.spaces.formats import integer_format
from paretune.spaces.legality import LEGAL
from paretune.spaces.methods import METHODS, closure_ruling, find_method, scaled_blocks
from paretune.spaces.named_formats import find_choice
from paretune.spaces.patterns import LayerRule, Restrictions
from paretune.spaces.size import weight_bytes
from paretune.spaces.space import SearchSpace
from tests.compressors.conftest import GROUP, make_bench, make_windows
from tests.fakes import FakeLegality, tiny_spec
from tests.models import FAMILIES

AWQ, RTN = find_quantizer("awq"), find_quantizer("rtn")
FOUR = LayerChoice(weight=integer_format(4, GROUP), method="awq")
THREE = LayerChoice(weight=integer_format(3, GROUP), method="awq")
PLAIN = LayerChoice(weight=integer_format(4, GROUP), method="rtn")
SPACE = Restrictions(
    bits=(4, 16),
    embedding_bits=(16,),
    methods=("awq", "rtn"),
    group_size=GROUP,
    sparsity=(0.0,),
    kv_bits=(16,),
)


def uniform(spec, choice, blocks=None):
    layers = {x.name: choice for x in spec.block_linears if blocks is None or x.block in blocks}
    return CompressionConfig(layers=layers)


@torch.inference_mode()
def logits(model):
    return model(input_ids=make_windows(2, 24, seed=5).ids, use_cache=False).logits.float()


def divergence(wanted, found):
    p, q = wanted.double().log_softmax(-1), found.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def outlier_scaled(one, block, choice=THREE):
    """A block scaled for covariances in which a few channels are large, as those of trained models are."""
    covariances = dict(gather_covariances(one.model, one.spec, one.windows))
    source = WeightSource(one.folder, one.model, one.spec)

    def seen(linear):
        found = covariances[keeper(one.spec, linear).name].clone()
        found[..., 3, :] *= 30
        found[..., :, 3] *= 30
        return LayerStatistics(found.diagonal(dim1=-2, dim2=-1).clone(), found)

    return source, seen, scale_block(source, one.model, block, choice.weight, torch.bfloat16, seen)


def put(one, tensors):
    parameters = dict(one.model.named_parameters())
    before = {name: parameters[name].data for name in tensors}
    for name, tensor in tensors.items():
        parameters[name].data = tensor.to(before[name]).reshape(before[name].shape)
    return before


# -- the scaled block ----------------------------------------------------------------------------------------


HALF = ("llama", "qwen2", "gemma3")


@pytest.mark.parametrize(
    ("family", "dtype"), [*((x, "float32") for x in FAMILIES), *((x, "bfloat16") for x in HALF)]
)
def test_a_scaled_block_that_is_not_rounded_gives_the_same_logits(family, dtype, tmp_path):
    one = make_bench(family, tmp_path, dtype=dtype, num_hidden_layers=2)
    _, _, scaled = outlier_scaled(one, 1)
    assert scaled.scales
    assert any(float((scales - 1).abs().max()) > 0.05 for scales in scaled.scales.values())
    layers = [x for x in one.spec.block_linears if x.block == 1 and x.experts == 1]
    moved = {x.parameter: scaled.copy.get_parameter(x.parameter) for x in layers} | scaled.fixed()
    wanted = logits(one.model)
    before = put(one, moved)
    found = logits(one.model)
    # Gains are rounded to bf16 and made up for; biases are rounded and no more.
    biased = any(name.endswith("bias") for name in scaled.fixed())
    tolerance = 2e-2 if biased and dtype == "bfloat16" else 2e-4
    assert float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())
    if scaled.fixed():  # the check can fail: without what goes with it, the block is another one
        put(one, {name: before[name] for name in scaled.fixed()})
        assert float((logits(one.model) - wanted).abs().max()) > 10 * float((found - wanted).abs().max())


def test_every_place_errs_less_than_rounding_to_nearest(llama):
    source, seen, scaled = outlier_scaled(llama, 0)
    assert set(scaled.scales) == {x.name for x in llama.spec.block_linears if x.block == 0}
    for linear in (x for x in llama.spec.block_linears if x.block == 0):
        covariance = seen(linear).covariance
        weight = source.rows(linear, 0, 0, linear.out_features)
        plain = RTN.quantize(weight, THREE.weight).dequantize() - weight
        rows = scaled.rows(linear, 0, 0, linear.out_features)
        statistics = scaled.seen(linear, seen(linear))
        found = AWQ.quantize(rows, THREE.weight, statistics).dequantize() - rows
        # Rows that the next place scales err in their own units: compared relative to what they compute.
        ratios = [
            ((error @ c) * error).sum(dim=1) / ((w @ c) * w).sum(dim=1)
            for error, c, w in ((found, statistics.covariance, rows), (plain, covariance, weight))
        ]
        assert float(ratios[0].mean()) < 0.8 * float(ratios[1].mean())


def test_experts_stay_as_they_are_and_attention_is_scaled(mixture):
    source, _, scaled = outlier_scaled(mixture, 1)
    scaled_layers = {name.rpartition(".")[2] for name in scaled.scales}
    assert scaled_layers == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert "router" in scaled.left["model.layers.1.post_attention_layernorm"]
    expert = next(x for x in mixture.spec.block_linears if x.block == 1 and x.role == "expert_gate_up")
    assert torch.equal(scaled.rows(expert, 2, 0, 9), source.rows(expert, 2, 0, 9))
    assert not any("gate" in name or "mlp" in name for name in scaled.fixed())


def test_what_is_not_homogeneous_is_left_with_the_reason(tmp_path):
    _, _, scaled = outlier_scaled(make_bench("gpt2", tmp_path), 0)
    assert scaled.left == {"transformer.h.0 (down)": "gelu_new between up and down is not homogeneous"}


def test_a_family_of_unknown_structure_is_rounded_without_scales(llama):
    llama.bank._source.spec = llama.spec.model_copy(update={"family": "decoder"})
    found = scale_block(llama.bank._source, llama.model, 0, FOUR.weight, torch.bfloat16, lambda _: None)
    assert not found.scales
    assert not found.fixed()
    assert "not known what reads the norms" in found.left["model.layers.0"]


# -- the search ----------------------------------------------------------------------------------------------


def readers(covariance, weight=None, bits=3, shape=None):
    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(1)) if weight is None else weight
    return Readers((weight,), covariance, shape or (1, 1, 64), integer_format(bits, 32), torch.bfloat16)


def skewed(seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(300, 64, generator=generator) * torch.logspace(-1.5, 1.5, 64)
    return inputs.t() @ inputs / 300


def test_channels_of_large_inputs_are_scaled_up():
    found = find_scales(readers(skewed()))
    assert found is not None
    assert float(found[0, -8:].mean()) > 2 * float(found[0, :8].mean())
    assert float(found.max() * found.min()) == pytest.approx(1.0, rel=1e-4)
    one = readers(skewed())
    assert one.error(found) < 0.9 * one.error(torch.ones(1, 64))


def test_heads_that_share_values_share_scales():
    one = readers(skewed(), shape=(2, 2, 16))
    found = find_scales(one)
    assert found.shape == (2, 16)
    wide = one.spread(found).view(2, 2, 16)
    assert torch.equal(wide[:, 0], wide[:, 1])


def test_dead_channels_stay_and_constant_inputs_are_no_error():
    covariance = skewed()
    covariance[5], covariance[:, 5] = 0.0, 0.0
    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(1))
    weight[:, 40] = 0.0
    found = find_scales(readers(covariance, weight))
    assert found is not None
    assert float(found[0, 5]) == float(found[0, 40]) == 1.0
    constant = torch.ones(64, 64)  # rank one: every channel says the same
    scales = find_scales(readers(constant))
    assert scales is None or bool(scales.isfinite().all())


def test_nothing_known_or_nothing_there_changes_nothing():
    assert find_scales(readers(torch.zeros(64, 64))) is None
    assert find_scales(readers(skewed(), torch.zeros(24, 64))) is None
    weight, nothing = torch.randn(8, 64), LayerStatistics(torch.zeros(64), torch.zeros(64, 64))
    found = AWQ.quantize(weight, FOUR.weight, nothing)
    assert torch.equal(found.codes, RTN.quantize(weight, FOUR.weight).codes)
    assert torch.equal(found.codes, AWQ.quantize(weight, FOUR.weight).codes)
    with pytest.raises(ModelError, match="covariance"):
        group_covariances(torch.full((64, 64), torch.nan), 32)


def test_covariances_of_groups_are_the_blocks_on_the_diagonal():
    covariance = skewed()
    found = group_covariances(covariance, 16)
    block = covariance[16:32, 16:32]
    ridge = 0.01 * block.diagonal().mean() * torch.eye(16)
    assert torch.allclose(found[1], block + ridge)


# -- bank, assembler and export --------------------------------------------------------------------------------


def test_dense_to_awq_and_back_restores_the_very_tensors(llama):
    space = SearchSpace(llama.spec, FakeLegality(), SPACE)
    llama.bank.build(space)
    before = {name: p.data.data_ptr() for name, p in llama.model.named_parameters()}
    wanted = logits(llama.model)
    config = uniform(llama.spec, FOUR, {1})
    candidate = logits(llama.assembler.apply(config))
    changed = {name for name, p in llama.model.named_parameters() if p.data.data_ptr() != before[name]}
    norms = {f"model.layers.1.{name}.weight" for name in ("input_layernorm", "post_attention_layernorm")}
    assert changed - {f"{x.name}.weight" for x in llama.spec.block_linears if x.block == 1} == norms
    assert divergence(wanted, candidate) > 0
    llama.assembler.apply(uniform(llama.spec, PLAIN))
    assert torch.equal(logits(llama.assembler.apply(config)), candidate)
    assert llama.assembler.apply(config) is llama.model
    assert llama.assembler.swapped == 0
    llama.assembler.apply(DENSE_CONFIG)
    assert {name: p.data.data_ptr() for name, p in llama.model.named_parameters()} == before
    assert torch.equal(logits(llama.model), wanted)


def test_the_model_holds_the_gains_that_are_stored(llama):
    llama.bank.observations.correlate()
    llama.assembler.apply(uniform(llama.spec, FOUR))
    changed = 0
    for name in (x.name for x in llama.spec.fixed if x.block is not None):
        stored = llama.bank.fixed(name, PrunedShape(), FOUR)
        assert stored.dtype == torch.bfloat16
        assert torch.equal(llama.model.get_parameter(name).data, stored.float())
        changed += not torch.equal(stored, llama.bank.fixed(name))
    assert changed


def test_a_block_is_made_at_once_and_only_once(llama):
    llama.bank.observations.correlate()
    llama.bank.tensor("model.layers.2.mlp.up_proj", FOUR)
    names = {name for name in llama.bank._store._hashes if not name.startswith("covariance")}
    assert names == {
        "scaled/blocks.2/int4-g32.awq",
        *(f"{x.name}/int4-g32.awq" for x in llama.spec.block_linears if x.block == 2),
    }
    size = (llama.bank.folder / "entries.jsonl").stat().st_size
    llama.assembler.apply(uniform(llama.spec, FOUR, {2}))
    assert (llama.bank.folder / "entries.jsonl").stat().st_size == size


def test_what_a_killed_build_left_is_made_again_the_same(llama):
    llama.bank.observations.correlate()
    config = uniform(llama.spec, THREE)
    wanted = logits(llama.assembler.apply(config))
    llama.assembler.apply(DENSE_CONFIG)
    index = llama.bank.folder / "entries.jsonl"
    lines = index.read_text().splitlines()
    index.write_text("\n".join(lines[: len(lines) - 5]) + "\n")
    bank = Bank.open(
        llama.bank.folder, llama.folder, llama.model, llama.spec, model_hash(llama.folder), llama.windows
    )
    assert torch.equal(logits(Assembler(llama.model, llama.spec, bank).apply(config)), wanted)


def test_a_streamed_bank_makes_the_same_and_says_what_it_left(mixture, tmp_path):
    digest = model_hash(mixture.folder)
    streamed = Bank.open(tmp_path / "other", mixture.folder, None, mixture.spec, digest, mixture.windows)
    for bank in (streamed, mixture.bank):
        bank.observations.correlate()
        bank.tensor("model.layers.0.self_attn.q_proj", FOUR)
        assert set(bank.unscaled) == {"model.layers.0.post_attention_layernorm", "model.layers.0 (down)"}
    for linear in (x for x in mixture.spec.block_linears if x.block == 0):
        assert torch.equal(streamed.tensor(linear.name, FOUR), mixture.bank.tensor(linear.name, FOUR))


def test_zeros_stay_zeros(llama):
    llama.bank.observations.correlate()
    sparse = FOUR.model_copy(update={"sparsity": Sparsity(fraction=0.5)})
    layer = "model.layers.0.mlp.down_proj"
    assert float((llama.bank.tensor(layer, sparse) == 0).float().mean()) >= 0.5


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "phi3", "qwen3_moe"])
def test_the_export_is_the_candidate(family, tmp_path):
    one = make_bench(family, tmp_path, dtype="bfloat16", num_hidden_layers=2)
    one.bank.observations.correlate()
    config = uniform(one.spec, FOUR, {1})
    card = ExportCard(one.folder, "candidate")
    folder = write_checkpoint(one.assembler, config, tmp_path / "export", card)
    assert weight_bytes(one.spec, config) == weight_bytes(one.spec, uniform(one.spec, PLAIN, {1}))
    wanted, found = logits(one.assembler.apply(config)), logits(load_checkpoint(folder))
    assert divergence(wanted, found) < (1e-3 if one.spec.experts else 1e-9)
    assert divergence(logits(one.assembler.apply(DENSE_CONFIG)), found) > 1e-6


# -- the space and its rulings ----------------------------------------------------------------------------------


def test_a_block_is_one_parameter_where_awq_is_allowed():
    spec = tiny_spec(tied=True)
    rules = (LayerRule(pattern="blocks.0.*", methods=("rtn",)),)
    space = SearchSpace(spec, FakeLegality(), SPACE.model_copy(update={"rules": rules}))
    names = [parameter.name for parameter in space.parameters if parameter.kind == "layer"]
    assert names == [
        "embedding", "blocks.0.qkv", "blocks.0.o", "blocks.0.gate_up", "blocks.0.down", "blocks.1", "blocks.2",
    ]  # fmt: skip
    parameter = space.parameters[space.index("blocks.1")]
    assert parameter.group.layers == tuple(x.name for x in spec.block_linears if x.block == 1)
    assert [choice.name for choice in parameter.choices] == ["int4-g32/awq", "int4-g32/rtn", "16"]
    point = list(space.origin())
    point[space.index("blocks.1")] = 0
    config = space.decode(point)
    check_configuration(spec, config)
    assert space.encode(config) == tuple(point)
    assert set(scaled_blocks(spec, config)) == {1}


def test_parameters_are_as_fine_as_ever_without_awq():
    spec = tiny_spec()
    space = SearchSpace(spec, FakeLegality(), SPACE.model_copy(update={"methods": ("rtn", "gptq")}))
    assert space.groups == FakeLegality().groups(spec)


def test_rules_that_tell_parts_of_a_scaled_block_apart_are_refused():
    rules = (LayerRule(pattern="*.down_proj", bits=(8,)),)
    with pytest.raises(SpaceError, match="scaled as a whole"):
        SearchSpace(tiny_spec(), FakeLegality(), SPACE.model_copy(update={"rules": rules}))


def test_pruned_sizes_that_cut_a_block_do_not_go_with_it():
    spec = tiny_spec()
    space = SearchSpace(spec, FakeLegality(), SPACE.model_copy(update={"ffn_channels": (128,)}))
    point = list(space.uniform(4, "awq"))
    assert space.ruling(point) == LEGAL
    point[space.index("pruned.ffn_channels")] = 1
    assert "lacks heads or channels" in space.ruling(point).reason
    parameter = space.parameters[space.index("blocks.0")]
    assert space.choice_bytes(parameter, PrunedShape(ffn_channels=128))[0] is None
    point[space.index("pruned.ffn_channels")] = 0
    point[space.index("pruned.blocks")] = 1
    assert space.ruling(point) == LEGAL


def test_half_a_block_is_refused(llama):
    whole = uniform(llama.spec, FOUR)
    check_configuration(llama.spec, whole)
    for other in (THREE, PLAIN, LayerChoice()):
        config = whole.replaced(layers={**whole.layers, "model.layers.1.mlp.down_proj": other})
        for check in (llama.assembler.apply, lambda one: check_configuration(llama.spec, one)):
            with pytest.raises(ConfigurationError, match="as a whole"):
                check(config)
    with pytest.raises(ConfigurationError, match="lacks heads or channels"):
        check_configuration(llama.spec, whole.replaced(pruned=PrunedShape(kv_heads=1)))
    assert llama.assembler.config == DENSE_CONFIG


def test_calibrated_inputs_and_training_are_refused():
    static = find_choice("w8a8-static/awq")
    assert "changes the inputs" in closure_ruling(static, PrunedShape()).reason
    assert closure_ruling(find_choice("w8a8-dynamic/awq"), PrunedShape())
    spec = tiny_spec()
    with pytest.raises(ConfigurationError, match="awq scaled"):
        _trainable(SimpleNamespace(spec=spec), uniform(spec, FOUR), "qat")


def test_the_table_of_methods_knows_what_moves_together():
    assert {name for name, method in METHODS.items() if method.closure == "block"} == {"awq"}
    assert {name for name, method in METHODS.items() if method.zero_point} == {"hqq"}
    with pytest.raises(Exception, match="rtn"):
        find_method("rtnn")

"""Training of a whole configuration: it helps, is exact, repeats itself, and leaves the dense model alone."""

import pytest
import torch

from paretune.compressors.divergence import Teacher
from paretune.compressors.quantizers import find_quantizer
from paretune.compressors.training.training_settings import TrainingSettings
from paretune.compressors.training.whole_model import bank_start, train
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError, FormatError, TextError
from paretune.spaces.formats import integer_format
from paretune.spaces.named_formats import find_choice
from tests.compressors.conftest import GROUP, make_bench, make_windows

RTN = find_quantizer("rtn")
QUICK = TrainingSettings(steps=12, batch_windows=8, weight_rate=0.01, checks=3)


def uniform(spec, bits, symmetric=True, layers=None, **choice):
    weight = integer_format(bits, GROUP, symmetric=symmetric)
    names = layers or [x.name for x in spec.block_linears]
    return CompressionConfig(layers={x: LayerChoice(weight=weight, method="rtn", **choice) for x in names})


def put(model, spec, found):
    """Swap in what the container would hold; returns what undoes it."""
    slots = dict(model.named_parameters())
    before = {name: slots[spec.linear(name).parameter].data for name in found}
    for name, one in found.items():
        linear = spec.linear(name)
        weight = one.dequantize()
        weight = weight.t().contiguous() if linear.transposed else weight.view(linear.stored_shape)
        slots[linear.parameter].data = weight
    return lambda: [setattr(slots[spec.linear(n).parameter], "data", d) for n, d in before.items()]


def divergence(bench, windows, found):
    teacher = Teacher(bench.model, windows)
    undo = put(bench.model, bench.spec, found)
    kl = float(teacher.compare(bench.model).kl.mean())
    undo()
    return kl


def same(first, second):
    return all(
        torch.equal(first[n].codes, second[n].codes) and torch.equal(first[n].scales, second[n].scales)
        for n in first
    )


@pytest.mark.parametrize("symmetric", [True, False])
def test_training_helps_and_the_container_holds_what_was_measured(llama, symmetric):
    windows = make_windows(24)
    config = uniform(llama.spec, 2, symmetric)
    before = {n: (p.data_ptr(), p.clone()) for n, p in llama.model.named_parameters()}
    with torch.inference_mode():
        found = train(llama.model, llama.spec, config, windows, QUICK)
    assert all(
        p.data_ptr() == before[n][0] and torch.equal(p, before[n][1]) and not p.requires_grad
        for n, p in llama.model.named_parameters()
    )
    assert found.kl_after < 0.95 * found.kl_before
    assert found.curve[0] == (0, found.kl_before)
    assert found.held_out_windows == 3
    held_out = type(windows).of(windows.ids[-3:], "held out")
    assert divergence(llama, held_out, found.weights) == pytest.approx(found.kl_after, rel=1e-4)
    other = make_windows(6, seed=5)
    start = {
        n: RTN.quantize(llama.model.get_submodule(n).weight.float(), x.weight)
        for n, x in config.layers.items()
    }
    assert divergence(llama, other, found.weights) < divergence(llama, other, start)
    for name, one in found.weights.items():
        assert one.codes.dtype == torch.int8
        assert int(one.codes.min()) >= -2
        assert int(one.codes.max()) <= 1
        assert one.scales.dtype == torch.bfloat16
        assert (one.zeros is None) == symmetric, name


def test_same_seed_same_codes(llama):
    config = uniform(llama.spec, 2, layers=["model.layers.0.mlp.up_proj", "model.layers.2.self_attn.o_proj"])
    settings = [TrainingSettings(steps=4, batch_windows=4, checks=4, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (
        train(llama.model, llama.spec, config, make_windows(12), one).weights for one in settings
    )
    assert same(first, again)
    assert not same(first, other)


def test_scales_alone_leave_weights_where_they_are(llama):
    layer = "model.layers.1.mlp.down_proj"
    settings = TrainingSettings(steps=6, batch_windows=8, learn_weights=False, scale_rate=0.003, checks=6)
    config = uniform(llama.spec, 2, layers=[layer])
    found = train(llama.model, llama.spec, config, make_windows(9), settings)
    assert found.kl_after < found.kl_before
    weight = llama.model.get_submodule(layer).weight.float()
    one = found.weights[layer]
    scales = one.scales.float().repeat_interleave(GROUP, dim=1)
    start = RTN.quantize(weight, integer_format(2, GROUP))
    inside = (weight / scales - one.codes.float()).abs() <= 0.5
    clipped = (one.codes == -2) | (one.codes == 1)
    near = start.codes.float() - weight / start.scales.float().repeat_interleave(GROUP, dim=1)
    assert bool((inside | clipped | (near.abs() > 0.49)).all())
    assert not torch.equal(one.scales, start.scales)


def test_the_start_is_kept_where_nothing_helps(llama):
    # Eight bits lose next to nothing, and a rate so high destroys everything.
    wild = TrainingSettings(steps=8, batch_windows=4, weight_rate=50.0, scale_rate=1.0, checks=8, patience=2)
    config = uniform(llama.spec, 8)
    found = train(llama.model, llama.spec, config, make_windows(9), wild)
    assert found.kl_after == found.kl_before
    assert found.curve[-1][0] == 2  # two checks without improvement end it
    assert same(found.weights, bank_start(llama.bank, config))


@pytest.mark.parametrize("family", ["gpt2", "qwen3_moe"])
def test_other_shapes_are_trained(family, tmp_path):
    bench = make_bench(family, tmp_path, num_hidden_layers=2)
    windows = make_windows(12)
    config = uniform(bench.spec, 2)
    found = train(bench.model, bench.spec, config, windows, QUICK, bank_start(bench.bank, config))
    assert found.kl_after < found.kl_before
    held_out = type(windows).of(windows.ids[-2:], "held out")
    assert divergence(bench, held_out, found.weights) == pytest.approx(found.kl_after, rel=1e-4)


def test_tied_embeddings_are_trained_as_one(tmp_path):
    bench = make_bench("llama", tmp_path, tie_word_embeddings=True)
    names = [bench.spec.embedding.name]
    slow = TrainingSettings(steps=12, batch_windows=8, checks=3)
    found = train(bench.model, bench.spec, uniform(bench.spec, 2, layers=names), make_windows(16), slow)
    assert list(found.weights) == names
    assert found.kl_after < found.kl_before
    held_out = type(bench.windows).of(make_windows(16).ids[-2:], "held out")
    assert divergence(bench, held_out, found.weights) == pytest.approx(found.kl_after, rel=1e-4)


def test_micro_batches_add_up(llama):
    config, windows = uniform(llama.spec, 2), make_windows(9)
    whole, split = (
        train(
            llama.model,
            llama.spec,
            config,
            windows,
            TrainingSettings(steps=2, batch_windows=4, checks=1, tokens_at_once=tokens),
        )
        for tokens in (2048, 48)
    )
    assert whole.kl_after == pytest.approx(split.kl_after, rel=1e-2)


def test_what_is_not_trained_is_refused(llama):
    spec, layer = llama.spec, "model.layers.0.mlp.up_proj"
    fine = uniform(spec, 4, layers=[layer])
    refused = [
        CompressionConfig(),
        fine.replaced(kv=KVFormat(num_bits=8)),
        fine.replaced(pruned=PrunedShape(ffn_channels=128)),
        uniform(spec, 4, layers=[layer], sparsity=Sparsity(fraction=0.5)),
        uniform(spec, 8, layers=[layer], activation=ActivationFormat()),
    ]
    for config in refused:
        with pytest.raises(ConfigurationError):
            train(llama.model, spec, config, make_windows(4), QUICK)
    with pytest.raises(FormatError, match="not trained"):
        train(
            llama.model, spec, CompressionConfig(layers={layer: find_choice("nf4")}), make_windows(4), QUICK
        )
    with pytest.raises(TextError, match="hold one out"):
        train(llama.model, spec, fine, make_windows(1), QUICK)


@pytest.mark.parametrize(
    "field", ["steps", "batch_windows", "checks", "patience", "weight_rate", "scale_rate", "held_out"]
)
def test_settings_are_checked(field):
    with pytest.raises(ConfigurationError, match=field):
        TrainingSettings(**{field: 0})


def test_predictions_that_are_not_finite_are_refused(llama):
    llama.model.get_submodule("model.norm").weight.data[0] = float("nan")
    with pytest.raises(ConfigurationError, match="not finite"):
        train(llama.model, llama.spec, uniform(llama.spec, 4), make_windows(4), QUICK)

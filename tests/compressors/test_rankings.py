"""The contract of rankings over every registered one, and what is particular to each."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from paretune.compressors.bank import Bank
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_dense, model_hash
from paretune.compressors.pruned_sizes import ruling
from paretune.compressors.rankings import RANKINGS, Ranking, find_ranking
from paretune.compressors.rankings.entropy import row_entropies
from paretune.compressors.rankings.ranking import KINDS
from paretune.spaces.architectures import read_model
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError, ModelError, RunError, UnknownNameError
from tests.compressors.conftest import Bench, make_bench, make_windows
from tests.fakes import tiny_spec
from tests.models import build_tiny

FAMILIES = ("llama", "qwen2", "gpt2", "qwen3_moe", "phi3")


def changed_bench(family, folder, change, **arguments) -> Bench:
    """A bench of a tiny model whose stored tensors ``change`` has edited."""
    bench = make_bench(family, folder / "first", **arguments)
    source, file = bench.folder, bench.folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    model = load_dense(source, bench.spec)
    bank = Bank.open(folder / "bank", source, model, bench.spec, model_hash(source), bench.windows)
    return Bench(
        source, bench.spec, model, bench.windows, bank, type(bench.assembler)(model, bench.spec, bank)
    )


@pytest.fixture(scope="module", params=FAMILIES)
def bench(request, tmp_path_factory):
    return make_bench(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("ranking", RANKINGS.values(), ids=RANKINGS)
def test_contract(ranking, bench):
    spec = bench.spec
    found = bench.bank.observations.rank(ranking.name)
    assert find_ranking(ranking.name) is ranking
    heads = 0 if spec.why_uncuttable("kv_heads") else spec.blocks
    shapes = {f"heads/{block}": (spec.kv_heads,) for block in range(heads)}
    channels = (spec.experts, spec.ffn_size) if spec.experts else (spec.ffn_size,)
    shapes |= {f"channels/{block}": channels for block in range(spec.blocks)}
    shapes |= {"blocks": (spec.blocks,), "width": (spec.hidden_size,)}
    refused = tuple(ranking.refusals)
    assert {name: tuple(score.shape) for name, score in found.items()} == {
        name: shape for name, shape in shapes.items() if not name.startswith(refused)
    }
    assert set(refused) < set(KINDS)
    for score in found.values():
        assert score.dtype == torch.float32
        assert score.isfinite().all()
        assert not score.requires_grad
    assert not any(p.requires_grad or p.grad is not None for p in bench.model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in bench.model.modules())
    assert bench.model.config._attn_implementation == "sdpa"
    for kind in refused:
        with pytest.raises(ConfigurationError, match=ranking.name):
            bench.bank.statistics.importance(kind, 0, ranking.name)
    again = Bank.open(
        bench.bank.folder, bench.folder, bench.model, spec, model_hash(bench.folder), bench.windows
    )
    for name, score in again.observations.rank(ranking.name).items():
        assert torch.equal(score, found[name])


def silence(tensors):
    """Zeros in the columns of the second group of the second block's output projection."""
    tensors["model.layers.1.self_attn.o_proj.weight"][:, 64:] = 0.0


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3_moe"])
def test_heads_that_write_nothing_come_last(family, tmp_path):
    bench = changed_bench(family, tmp_path, silence)
    for name in ("activation", "taylor", "removal"):
        silent, other = bench.bank.statistics.importance("heads", 1, name)[[1, 0]].tolist()
        assert silent == pytest.approx(0.0, abs=1e-7)
        assert other > 1e-4


def drop_block(tensors):
    for name, tensor in tensors.items():
        inside = ".1." in name and name.split(".1.")[0].endswith(("layers", ".h", "h"))
        if inside and any(word in name for word in ("o_proj", "down_proj", "c_proj")):
            tensor.zero_()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "qwen3_moe"])
def test_a_block_that_does_nothing_goes_first(family, tmp_path):
    bench = changed_bench(family, tmp_path, drop_block)
    for name in ("activation", "taylor", "removal"):
        scores = bench.bank.statistics.importance("blocks", None, name)
        assert scores[1] == pytest.approx(0.0, abs=1e-6)
        assert bench.bank.statistics.block_order_by(name)[0] == 1
    assert bench.bank.block_order == bench.bank.statistics.block_order_by("activation")


def test_removal_is_the_divergence_of_the_cut_model(tmp_path):
    bench = make_bench("llama", tmp_path, num_hidden_layers=1)
    teacher = Teacher(bench.model, bench.windows)
    scores = bench.bank.statistics.importance("heads", 0, "removal")
    model = bench.assembler.apply(CompressionConfig(pruned=PrunedShape(kv_heads=1, ranking="removal")))
    expected = float(teacher.compare(model).kl.mean())
    assert float(scores.min()) == pytest.approx(expected, rel=1e-4)


def test_removal_of_a_block_is_the_divergence_without_it(llama):
    teacher = Teacher(llama.model, llama.windows)
    scores = llama.bank.statistics.importance("blocks", None, "removal")
    for block in range(3):
        kept = tuple(b for b in range(3) if b != block)
        model = llama.assembler.apply(CompressionConfig(pruned=PrunedShape(blocks=kept)))
        assert float(scores[block]) == pytest.approx(float(teacher.compare(model).kl.mean()), rel=1e-4)


def loss_of(model, ids) -> float:
    with torch.inference_mode():
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].to(torch.float64)
    return float(torch.nn.functional.cross_entropy(logits, ids[1:]))


@pytest.mark.parametrize(
    ("family", "key", "parameter", "position", "part"),
    [
        ("llama", "heads/1", "model.layers.1.self_attn.o_proj.weight", 1, (slice(None), slice(64, 128))),
        ("llama", "channels/0", "model.layers.0.mlp.down_proj.weight", 7, (slice(None), 7)),
        ("gpt2", "channels/2", "transformer.h.2.mlp.c_proj.weight", 9, (9,)),
        ("qwen3_moe", "channels/1", "model.layers.1.mlp.experts.down_proj", (2, 5), (2, slice(None), 5)),
    ],
)
def test_taylor_is_the_derivative_by_a_gate(family, key, parameter, position, part, tmp_path):
    bench = make_bench(family, tmp_path)
    found = float(bench.bank.observations.rank("taylor")[key][position])
    weight, slopes = bench.model.get_parameter(parameter), []
    kept, step = weight[part].clone(), 0.02
    with torch.no_grad():
        for ids in bench.windows.ids:
            losses = []
            for sign in (1, -1):
                weight[part] = kept * (1 + sign * step)
                losses.append(loss_of(bench.model, ids))
            slopes.append(abs(losses[0] - losses[1]) / (2 * step))
    assert found == pytest.approx(sum(slopes) / len(slopes), rel=0.02, abs=2e-5)


def test_entropy_of_rows_by_hand():
    weights = torch.tensor([[[[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]]]])
    assert row_entropies(weights)[0, 0].tolist() == pytest.approx([0.0, math.log(2), math.log(4)])


def test_heads_that_look_everywhere_come_last(tmp_path):
    def blind(tensors):
        for name in ("weight", "bias"):
            tensors[f"model.layers.2.self_attn.q_proj.{name}"][64:] = 0.0

    bench = changed_bench("qwen2", tmp_path, blind)
    scores = bench.bank.statistics.importance("heads", 2, "entropy").tolist()
    tokens = bench.windows.window_tokens
    uniform = sum(math.log(visible) for visible in range(1, tokens + 1)) / tokens
    assert scores[1] == pytest.approx(-uniform, rel=1e-5)
    assert scores[0] > scores[1]


def test_a_ranking_keeps_to_its_text(llama):
    llama.bank.observations.rank("taylor")
    with pytest.raises(RunError, match="another text"):
        llama.bank.observations.rank("taylor", windows=make_windows(seed=5))


def test_a_candidate_is_not_what_is_ranked(tmp_path):
    first = make_bench("llama", tmp_path / "a")
    expected = first.bank.observations.rank("taylor")
    second = make_bench("llama", tmp_path / "b")
    second.assembler.apply(CompressionConfig(pruned=PrunedShape(blocks=(0, 2), ffn_channels=64)))
    second.assembler.apply(CompressionConfig(pruned=PrunedShape(kv_heads=1, ranking="taylor")))
    for name, score in second.bank.observations.rank("taylor").items():
        torch.testing.assert_close(score, expected[name])
    second.assembler.apply(DENSE_CONFIG)
    assert second.model.get_parameter("model.layers.1.self_attn.q_proj.weight").shape == (128, 128)


def test_a_candidate_without_a_checkpoint_cannot_be_ranked(llama, tmp_path):
    bank = Bank.open(tmp_path / "other", None, llama.model, llama.spec, "hash", llama.windows)
    llama.assembler.apply(CompressionConfig(pruned=PrunedShape(ffn_channels=64)))
    with pytest.raises(RunError, match="candidate"):
        bank.observations.rank("taylor")
    llama.assembler.apply(DENSE_CONFIG)
    assert bank.observations.rank("taylor")


def test_weights_on_disk_are_enough_for_entropy_alone(llama, tmp_path):
    bank = Bank.open(tmp_path / "streamed", llama.folder, None, llama.spec, "hash", llama.windows)
    for name, score in bank.observations.rank("entropy").items():
        torch.testing.assert_close(score, llama.bank.observations.rank("entropy")[name], rtol=1e-4, atol=1e-5)
    for name in ("taylor", "removal"):
        with pytest.raises(ModelError, match="in memory"):
            bank.observations.rank(name)


def test_scores_without_an_order_are_refused(llama, monkeypatch):
    class Broken(Ranking):
        name = "broken"

        def scores(self, scene):
            return {"blocks": torch.tensor([1.0, float("nan"), 2.0])}

    monkeypatch.setitem(RANKINGS, "broken", Broken())
    with pytest.raises(ModelError, match="not finite"):
        llama.bank.statistics.importance("blocks", None, "broken")


def test_scores_of_an_older_version_are_refused(llama, monkeypatch):
    llama.bank.observations.rank("entropy")
    again = Bank.open(
        llama.bank.folder, llama.folder, llama.model, llama.spec, model_hash(llama.folder), llama.windows
    )
    monkeypatch.setattr(RANKINGS["entropy"], "version", "2", raising=False)
    with pytest.raises(RunError, match="another version"):
        again.statistics.importance("heads", 0, "entropy")


def test_names_are_looked_up(llama):
    with pytest.raises(UnknownNameError, match="taylor"):
        llama.bank.statistics.importance("heads", 0, "tailor")
    with pytest.raises(ConfigurationError, match="nothing that can be ranked"):
        llama.bank.statistics.importance("eyes", 0, "taylor")


def test_a_pruned_is_ruled_by_what_its_ranking_scores():
    spec = tiny_spec(hidden=32, heads=8, kv_heads=4, head_dim=2, ffn=6)
    assert ruling(spec, PrunedShape(kv_heads=2, ffn_channels=3, ranking="taylor"))
    assert ruling(spec, PrunedShape(kv_heads=2, ranking="entropy"))
    assert ruling(spec, PrunedShape(blocks=(0,), ranking="entropy"))
    assert "attention rows" in ruling(spec, PrunedShape(ffn_channels=3, ranking="entropy")).reason
    assert "taylor" in ruling(spec, PrunedShape(kv_heads=2, ffn_channels=3, ranking="removal")).reason
    assert "no ranking 'size'" in ruling(spec, PrunedShape(kv_heads=2, ranking="size")).reason


def test_a_model_of_zeros_has_an_order(tmp_path):
    source = build_tiny("llama", tmp_path / "model", num_hidden_layers=2)
    tensors = load_file(source / "model.safetensors")
    for tensor in tensors.values():
        tensor.zero_()
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    spec = read_model(source)
    bank = Bank.open(tmp_path / "bank", source, load_dense(source, spec), spec, "hash", make_windows())
    for name in ("activation", "entropy", "taylor", "removal"):
        scores = bank.statistics.importance("heads", 0, name)
        assert scores[0] == scores[1]
    assert bank.statistics.block_order_by("removal") == (1, 0)

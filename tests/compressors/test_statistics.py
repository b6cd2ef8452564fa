"""Statistics against a plain recomputation from recorded inputs."""

import itertools

import pytest
import torch

from paretune.compressors.observation import RunningMean
from paretune.compressors.statistics import LayerStatistics
from tests.compressors.conftest import make_bench, make_windows


def recorded(bench, layer):
    """Inputs of a layer over the calibration windows, ``(tokens, features)``."""
    seen = []
    handle = bench.model.get_submodule(layer).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].reshape(-1, inputs[0].shape[-1]).clone())
    )
    bench.model(make_windows().ids)
    handle.remove()
    return torch.cat(seen)


def test_input_moments(llama):
    for layer in ("model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj", "lm_head"):
        inputs = recorded(llama, layer)
        torch.testing.assert_close(
            llama.bank.statistics.layer(layer).second_moment, inputs.square().mean(dim=0)
        )
    assert llama.bank.statistics.layer("model.embed_tokens") is None


def test_block_influence(llama):
    states = llama.model(make_windows().ids, output_hidden_states=True).hidden_states
    last = []
    handle = llama.model.model.norm.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0]))
    llama.model(make_windows().ids)
    handle.remove()
    states = [*states[:3], last[0]]
    for block in range(3):
        cosine = torch.nn.functional.cosine_similarity(states[block], states[block + 1], dim=-1)
        found = llama.bank.statistics.tensors["blocks"][block]
        assert float(found) == pytest.approx(1 - float(cosine.mean()), rel=1e-4)


def test_block_order_has_the_least_important_first(llama):
    scores = llama.bank.statistics.tensors["blocks"]
    order = llama.bank.block_order
    assert sorted(order) == [0, 1, 2]
    assert all(scores[a] <= scores[b] for a, b in itertools.pairwise(order))


def test_importance_of_heads_is_what_they_add_to_the_stream(llama):
    layer = "model.layers.1.self_attn.o_proj"
    inputs, weight = recorded(llama, layer), llama.model.get_submodule(layer).weight
    for head in range(2):
        columns = slice(head * 64, (head + 1) * 64)
        added = inputs[:, columns] @ weight[:, columns].t()
        expected = added.square().sum(dim=1).mean().sqrt()
        found = llama.bank.statistics.importance("heads", 1)[head]
        assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_importance_of_channels(llama):
    layer = "model.layers.1.mlp.down_proj"
    inputs, weight = recorded(llama, layer), llama.model.get_submodule(layer).weight
    expected = inputs.abs().mean(dim=0) * weight.norm(dim=0)
    torch.testing.assert_close(llama.bank.statistics.importance("channels", 1), expected)


def test_statistics_of_experts_are_of_the_tokens_that_reached_them(mixture):
    path = "model.layers.0.mlp"
    seen = []
    experts = mixture.model.get_submodule(f"{path}.experts")
    handle = experts.register_forward_pre_hook(
        lambda _, inputs: seen.append((inputs[0].clone(), inputs[1].clone()))
    )
    mixture.model(make_windows().ids)
    handle.remove()
    hidden, chosen = seen[0]
    weight = mixture.model.get_parameter(f"{path}.experts.down_proj")
    for expert in range(4):
        rows = hidden[(chosen == expert).any(dim=-1)]
        assert 0 < len(rows) < len(hidden)
        layer = mixture.bank.statistics.layer(f"{path}.experts.gate_up_proj").expert(expert)
        torch.testing.assert_close(layer.second_moment, rows.square().mean(dim=0), rtol=1e-4, atol=1e-6)
        gate, up = (rows @ experts.gate_up_proj[expert].t()).chunk(2, dim=-1)
        inner = torch.nn.functional.silu(gate) * up
        found = mixture.bank.statistics.importance("channels", 0)[expert]
        torch.testing.assert_close(
            found, inner.abs().mean(dim=0) * weight[expert].norm(dim=0), rtol=1e-4, atol=1e-6
        )


def test_an_expert_that_no_token_reached_takes_the_mean_of_its_layer():
    mean = RunningMean()
    mean.add(torch.tensor([[6.0, 0.0], [0.0, 0.0], [2.0, 4.0]]), torch.tensor([3, 0, 1]))
    assert mean.mean().tolist() == [[2.0, 0.0], [2.0, 1.0], [2.0, 4.0]]


def test_statistics_do_not_depend_on_batches(tmp_path, monkeypatch):
    from paretune.compressors import statistics

    one = make_bench("llama", tmp_path / "a").bank.statistics
    monkeypatch.setattr(statistics, "_TOKENS_AT_ONCE", 48)
    other = make_bench("llama", tmp_path / "b").bank.statistics
    assert one.tensors.keys() == other.tensors.keys()
    for name, values in one.tensors.items():
        torch.testing.assert_close(other.tensors[name], values, rtol=1e-4, atol=1e-6)


def test_kept_columns_of_statistics():
    found = LayerStatistics(torch.tensor([1.0, 2.0, 3.0])).columns(torch.tensor([0, 2]))
    assert found.second_moment.tolist() == [1.0, 3.0]


def test_a_dead_channel_is_the_first_to_go(tmp_path):
    bench = make_bench("llama", tmp_path)
    dead = torch.tensor([3, 77, 200])
    for block in range(3):
        layer = bench.model.model.layers[block].mlp
        layer.up_proj.weight.data[dead] = 0.0
    from paretune.compressors.statistics import gather
    from paretune.compressors.weight_source import WeightSource

    found = gather(bench.model, bench.spec, make_windows(), WeightSource(None, bench.model, bench.spec))
    for block in range(3):
        assert (found.importance("channels", block)[dead] == 0).all()
        assert torch.isfinite(found.importance("channels", block)).all()

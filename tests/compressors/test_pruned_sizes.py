"""Which rows and columns a pruned model keeps, by hand on a small model."""

import pytest
import torch
import transformers

from paretune.compressors.pruned_sizes import kept_columns, kept_indices, kept_rows, ruling, touched
from paretune.spaces.architectures import read_model
from paretune.spaces.checking import check_pruned
from paretune.spaces.configuration import WHOLE, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError, SpaceError
from paretune.spaces.model import FixedTensor, Uncuttable
from paretune.spaces.patterns import Restrictions
from paretune.spaces.size import kept_shape, weight_bytes
from paretune.spaces.space import SearchSpace
from tests.compressors.conftest import make_bench
from tests.fakes import FakeLegality, tiny_spec
from tests.models import FAMILIES, build_tiny


class Ranked:
    """Heads 1 and 2 of four matter most, of six channels 5, 0 and 3."""

    def importance(self, kind, block=None):
        return {"heads": torch.tensor([0.1, 0.9, 0.8, 0.2]), "channels": torch.tensor([5.0, 1, 2, 4, 3, 9])}[
            kind
        ]


SPEC = tiny_spec(hidden=32, heads=8, kv_heads=4, head_dim=2, ffn=6)


@pytest.mark.parametrize(
    ("role", "rows", "columns"),
    [
        ("q", [4, 5, 6, 7, 8, 9, 10, 11], None),
        ("k", [2, 3, 4, 5], None),
        ("v", [2, 3, 4, 5], None),
        ("o", None, [4, 5, 6, 7, 8, 9, 10, 11]),
        ("gate", [0, 3, 5], None),
        ("down", None, [0, 3, 5]),
        ("embedding", None, None),
    ],
)
def test_kept_rows_and_columns(role, rows, columns):
    pruned = PrunedShape(kv_heads=2, ffn_channels=3)
    linear = SPEC.of_role(role)[0]
    for found, expected in (
        (kept_rows(SPEC, Ranked(), linear, pruned), rows),
        (kept_columns(SPEC, Ranked(), linear, pruned), columns),
    ):
        assert (None if found is None else found.tolist()) == expected
    shape = kept_shape(SPEC, linear, pruned)
    assert shape[0] == (linear.out_features if rows is None else len(rows))
    assert shape[1] == (linear.in_features if columns is None else len(columns))


def test_stacked_projections_are_cut_in_each_part():
    pruned = PrunedShape(kv_heads=2, ffn_channels=3)
    found = kept_indices(SPEC, Ranked(), "qkv", 0, pruned)
    assert found.tolist() == [*range(4, 12), *range(18, 22), *range(26, 30)]
    pair = kept_indices(SPEC, Ranked(), "ffn_pair", 0, pruned)
    assert pair.tolist() == [0, 3, 5, 6, 9, 11]


def test_keeping_everything_keeps_the_order():
    for linear in SPEC.linears:
        for kept in (kept_rows, kept_columns):
            found = kept(SPEC, Ranked(), linear, PrunedShape(kv_heads=4, ffn_channels=6))
            assert found is None or found.tolist() == list(range(len(found)))


def test_of_equals_the_first_stay():
    class Equal:
        def importance(self, kind, block=None):
            return torch.ones(6)

    assert kept_indices(SPEC, Equal(), "ffn", 0, PrunedShape(ffn_channels=2)).tolist() == [0, 1]


def test_what_a_cut_touches():
    pruned = PrunedShape(blocks=(0, 2), kv_heads=2, ffn_channels=3)
    assert touched(SPEC.of_role("q")[0], pruned) == PrunedShape(kv_heads=2)
    assert touched(SPEC.of_role("down")[0], pruned) == PrunedShape(ffn_channels=3)
    assert touched(SPEC.embedding, pruned) == WHOLE
    assert touched(FixedTensor(name="b", shape=(4,), axis="kv_heads"), pruned) == PrunedShape(kv_heads=2)


def test_rulings():
    assert ruling(SPEC, PrunedShape(blocks=(0, 2), kv_heads=2, ffn_channels=3))
    assert "block 3" in ruling(SPEC, PrunedShape(blocks=(0, 3))).reason
    assert "9 FFN channels" in ruling(SPEC, PrunedShape(ffn_channels=9)).reason
    assert "5 key-value heads" in ruling(SPEC, PrunedShape(kv_heads=5)).reason
    fixed = SPEC.model_copy(update={"uncuttable": (Uncuttable(kind="kv_heads", reason="derives its heads"),)})
    assert ruling(fixed, PrunedShape(kv_heads=2)).reason == "derives its heads"
    assert ruling(fixed, PrunedShape(ffn_channels=3))


class Wide(Ranked):
    """Hidden channels in falling order, but for the last, which matters most."""

    def importance(self, kind, block=None):
        if kind != "width":
            return super().importance(kind, block)
        assert block is None
        return torch.cat([torch.arange(32.0, 1.0, -1), torch.tensor([99.0])])


@pytest.mark.parametrize(
    ("role", "rows", "columns"),
    [
        ("embedding", False, True),
        ("head", False, True),
        ("q", False, True),
        ("o", True, False),
        ("down", True, False),
    ],
)
def test_hidden_channels_are_the_same_everywhere(role, rows, columns):
    pruned, linear = PrunedShape(hidden=4), SPEC.of_role(role)[0]
    found = (kept_rows(SPEC, Wide(), linear, pruned), kept_columns(SPEC, Wide(), linear, pruned))
    assert [kept is not None for kept in found] == [rows, columns]
    assert next(kept for kept in found if kept is not None).tolist() == [0, 1, 2, 31]
    assert 4 in kept_shape(SPEC, linear, pruned)
    assert touched(linear, PrunedShape(hidden=4, blocks=(0,))) == PrunedShape(hidden=4)


def test_every_fixed_tensor_of_a_llama_lies_on_the_residual_stream():
    assert {tensor.axis for tensor in SPEC.fixed} == {"hidden"}
    assert touched(SPEC.fixed[0], PrunedShape(kv_heads=2, hidden=4)) == PrunedShape(hidden=4)


def hand_cut(bench, kept_heads, kept_hidden):
    """Logits of a one-block Llama cut by plain slicing of its tensors."""
    from transformers import LlamaConfig, LlamaForCausalLM

    values = bench.model.config.to_dict() | {
        "hidden_size": len(kept_hidden),
        "num_attention_heads": 2 * len(kept_heads),
        "num_key_value_heads": len(kept_heads),
    }
    model = LlamaForCausalLM(LlamaConfig(**values)).eval()
    tensors, keys = (
        dict(bench.model.named_parameters()),
        torch.cat([torch.arange(32) + 32 * h for h in kept_heads]),
    )
    queries = torch.cat([torch.arange(64) + 64 * h for h in kept_heads])
    rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
    for name, parameter in model.named_parameters():
        value, module = tensors[name].data, name.split(".")[-2]
        if value.ndim == 1:
            value = value[kept_hidden]
        elif module == "o_proj":
            value = value[kept_hidden][:, queries]
        elif module == "down_proj":
            value = value[kept_hidden]
        else:
            value = value[rows.get(module, slice(None))][:, kept_hidden]
        parameter.data.copy_(value)
    return model


def test_cutting_is_slicing_by_hand(tmp_path):
    bench = make_bench("llama", tmp_path, num_hidden_layers=1)
    ids = bench.windows.ids[:1]
    head = bench.bank.statistics.importance("heads", 0).argmax()
    hidden = bench.bank.statistics.importance("width").topk(96).indices.sort().values
    expected = hand_cut(bench, [int(head)], hidden)(ids).logits
    config = CompressionConfig(pruned=PrunedShape(kv_heads=1, hidden=96))
    torch.testing.assert_close(bench.assembler.apply(config)(ids).logits, expected)


def test_hidden_channels_are_ranked_by_what_norms_hand_on(tmp_path):
    bench = make_bench("llama", tmp_path)
    activation = bench.bank.statistics.importance("width")
    assert activation.shape == (128,)
    assert (activation > 0).all()
    moments = bench.bank.statistics
    names = [f"model.layers.{b}.{path}" for b in range(3) for path in ("self_attn.q_proj", "mlp.gate_proj")]
    expected = sum(moments.layer(name).second_moment.sqrt() for name in [*names, "lm_head"])
    torch.testing.assert_close(activation, expected)


def refuses(family, heads, hidden) -> bool:
    """Whether transformers refuses a configuration."""
    configuration, _, arguments = FAMILIES[family]
    values = {**arguments, "num_attention_heads": heads, "hidden_size": hidden, "head_dim": 32}
    try:
        getattr(transformers, configuration)(**{**values, "num_key_value_heads": heads})
    except Exception as error:  # noqa: BLE001 -- whatever class it is by now, its words say what
        return "multiple" in str(error)
    return False


@pytest.mark.parametrize("family", FAMILIES)
def test_head_counts_that_a_configuration_refuses(family, tmp_path):
    bench_spec = read_model(build_tiny(family, tmp_path, num_key_value_heads=4))
    if bench_spec.why_uncuttable("kv_heads") is not None:
        return
    three = PrunedShape(kv_heads=3)
    refused = refuses(family, 3, 128)
    assert bool(ruling(bench_spec, three)) is not refused
    if refused:
        assert "no multiple of 3 heads" in ruling(bench_spec, three).reason
        with pytest.raises(ConfigurationError, match="no multiple of 3 heads"):
            check_pruned(bench_spec, three)
    assert ruling(bench_spec, PrunedShape(kv_heads=2))
    if bench_spec.why_uncuttable("hidden") is None:
        assert bool(ruling(bench_spec, PrunedShape(hidden=90))) is not refuses(family, 4, 90)
        assert ruling(bench_spec, PrunedShape(kv_heads=3, hidden=96))


@pytest.mark.parametrize(
    ("family", "reason"), [("gpt2", "width of a head"), ("opt", "width of a head"), ("gemma3", "root")]
)
def test_families_that_cannot_lose_hidden_channels_say_why(family, reason, tmp_path):
    spec = read_model(build_tiny(family, tmp_path))
    assert reason in ruling(spec, PrunedShape(hidden=64)).reason
    with pytest.raises(SpaceError, match=reason):
        SearchSpace(spec, FakeLegality(), Restrictions(hidden=(64,)))


def test_hidden_width_is_offered_on_request_alone():
    plain = SearchSpace(SPEC, FakeLegality(), Restrictions(group_size=None))
    assert not any(parameter.kind == "hidden" for parameter in plain.parameters)
    assert Restrictions(group_size=None).to_json() == Restrictions(group_size=None, hidden=()).to_json()
    space = SearchSpace(SPEC, FakeLegality(), Restrictions(group_size=None, hidden=(16, 24)))
    assert space.parameters[-1].choices == (None, 24, 16)
    point = [*space.origin()[:-1], 2]
    config = space.decode(point)
    assert config.pruned == PrunedShape(hidden=16)
    assert space.encode(config) == tuple(point)
    with pytest.raises(SpaceError, match="33 hidden channels"):
        SearchSpace(SPEC, FakeLegality(), Restrictions(hidden=(33,)))
    assert "33 hidden channels" in ruling(SPEC, PrunedShape(hidden=33)).reason


def test_a_pruned_without_hidden_channels_reads_as_before():
    assert "hidden" not in PrunedShape(kv_heads=2).to_json()
    assert PrunedShape.from_json(PrunedShape(hidden=4).to_json()) == PrunedShape(hidden=4)
    assert PrunedShape(hidden=4).name == "hidden4"
    assert not PrunedShape(hidden=4).whole
    with pytest.raises(ConfigurationError, match="0 hidden channels"):
        PrunedShape(hidden=0)


def test_bytes_of_a_narrow_pruned_by_hand():
    spec = tiny_spec(blocks=1, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn=16, vocabulary=10, tied=True)
    config = CompressionConfig(pruned=PrunedShape(hidden=24))
    inside = 24 * (32 + 16 + 16 + 32) + 3 * 24 * 16
    assert weight_bytes(spec, config) == 4 * (10 * 24 + inside + 3 * 24)

"""The roofline: by hand for a device with round numbers, and by what must hold for every model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.engines.operation import Operation
from paretune.engines.selection import select_on_cpu
from paretune.engines.workload_operations import attended_pairs, touched_experts, workload_operations
from paretune.profiles import roofline as floors
from paretune.profiles.candidates import DENSE, uniform_candidates
from paretune.profiles.roofline import Roofline, compute_bound_tokens, peak
from paretune.profiles.work import Case, launches, work
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.formats import integer_format
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import fixed_bytes
from paretune.spaces.target import Workload
from tests.fakes import tiny_moe_spec, tiny_spec
from tests.profiles.fakes import ROUND, llama


def roofline(spec, config, workload, device) -> Roofline:
    return floors.roofline(Case(spec, config, workload, device))


EXPERTS = tiny_moe_spec()
ONE = Workload(batch=1, prompt_tokens=16, output_tokens=16)
SPEC = tiny_spec(dtype="bfloat16", tied=False)


def uniform(spec: ModelSpec, bits: int, activation: ActivationFormat | None = None) -> CompressionConfig:
    choice = LayerChoice(weight=integer_format(bits, None), activation=activation, method="rtn")
    return CompressionConfig(layers={linear.name: choice for linear in spec.block_linears})


def test_llama_8b_by_hand(tmp_path):
    spec = llama("8b", tmp_path)
    found = roofline(spec, DENSE_CONFIG, Workload(batch=1, prompt_tokens=1024, output_tokens=1), ROUND)
    linears = 32 * (4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336)
    head = 4096 * 128256
    # Decode reads every weight of blocks and head once; norms and one row of the embedding on top.
    weights = 2 * (linears + head + 32 * 2 * 4096 + 4096)
    assert found.decode.weights_s == pytest.approx(weights / 1e12, rel=1e-9)
    # Keys and values of 1,025 tokens: 32 blocks x 8 heads x 128 x 2 x 2 bytes each.
    assert found.decode.cache_s == pytest.approx(1025 * 32 * 8 * 128 * 2 * 2 / 1e12, rel=1e-9)
    assert found.decode.operations == pytest.approx(2 * (linears + head) + 4 * 4096 * 32 * 1025)
    # 4 fused linears and 6 other kernels a block, 4 outside.
    assert found.decode.kernels == 32 * 10 + 4
    assert found.decode.launches_s == pytest.approx(324e-6)
    assert found.decode.compute_s == 0
    # 1,024 tokens wait for arithmetic (100 operations a byte are enough), the head sees one of them.
    attention = 4 * 4096 * 32 * 1024 * 1025 // 2
    assert found.prefill.operations == 2 * 1024 * linears + 2 * head + attention
    assert found.prefill.compute_s == pytest.approx((2 * 1024 * linears + attention) / 1e14, rel=1e-6)
    assert found.prefill.binds == "compute"
    assert found.decode.binds == "weights"


def test_requests_add_up():
    found = roofline(SPEC, DENSE_CONFIG, ONE, ROUND)
    assert found.request_s(ONE) == found.prefill.seconds + 15 * found.decode.seconds
    assert Roofline.from_json(found.to_json()) == found


def test_formats_change_bytes_and_not_operations():
    dense, four = (roofline(SPEC, config, ONE, ROUND) for config in (DENSE_CONFIG, uniform(SPEC, 4)))
    assert four.decode.read_bytes < dense.decode.read_bytes
    assert four.decode.operations == dense.decode.operations
    assert four.decode.kernels == dense.decode.kernels


def test_rounded_inputs_use_integer_arithmetic_and_more_kernels():
    config = uniform(SPEC, 8, ActivationFormat())
    case = Case(SPEC, config, ONE, ROUND)
    kinds = {kernel.arithmetic for kernel in work(case, "prefill") if kernel.operations}
    assert kinds == {"int8", "bf16"}, "the blocks' products, and those of head and attention"
    assert launches(case) == launches(Case(SPEC, DENSE_CONFIG, ONE, ROUND)) + 4 * SPEC.blocks


def test_a_float32_model_multiplies_in_float32():
    assert Case(tiny_spec(), DENSE_CONFIG, ONE, ROUND).dense_arithmetic == "fp32"
    no_bf16 = ROUND.model_copy(update={"peak_operations_per_s": {"fp32": 1e12}})
    assert Case(SPEC, DENSE_CONFIG, ONE, no_bf16).dense_arithmetic == "fp32"


def test_an_arithmetic_that_the_device_lacks_is_refused():
    with pytest.raises(ConfigurationError, match="int4 arithmetic on Round numbers"):
        peak(ROUND, "int4")


def test_the_turning_point_is_where_compute_takes_over():
    case = Case(SPEC, DENSE_CONFIG, ONE, ROUND)
    assert compute_bound_tokens(case) == pytest.approx(2 * 1e14 / (2 * 1e12))
    four = Case(SPEC, uniform(SPEC, 4), ONE, ROUND)
    assert compute_bound_tokens(four) < compute_bound_tokens(case) / 3


def test_a_tied_head_is_read_as_the_embedding():
    tied, untied = tiny_spec(dtype="bfloat16"), tiny_spec(dtype="bfloat16", tied=False)
    both = [roofline(spec, DENSE_CONFIG, ONE, ROUND).decode.read_bytes for spec in (tied, untied)]
    assert both[0] == both[1]


def test_a_sliding_window_bounds_what_is_read():
    long = Workload(batch=1, prompt_tokens=128, output_tokens=16)
    windowed = tiny_spec(dtype="bfloat16", window=16)
    short = roofline(windowed, DENSE_CONFIG, long, ROUND)
    assert (
        short.decode.read_bytes
        < roofline(tiny_spec(dtype="bfloat16"), DENSE_CONFIG, long, ROUND).decode.read_bytes
    )


@given(st.integers(1, 60), st.one_of(st.none(), st.integers(1, 70)))
def test_attended_pairs_counted_one_by_one(tokens, window):
    expected = sum(min(position + 1, window or tokens) for position in range(tokens))
    assert attended_pairs(tokens, window) == expected


def test_experts_are_read_as_far_as_tokens_reach_them():
    assert touched_experts(EXPERTS, 1) == pytest.approx(EXPERTS.active_experts)
    assert touched_experts(EXPERTS, 10_000) == pytest.approx(EXPERTS.experts)
    spec = tiny_moe_spec()
    reads = [
        roofline(spec, DENSE_CONFIG, Workload(batch=batch, prompt_tokens=1), ROUND).decode.weights_s
        for batch in (1, 4, 64)
    ]
    assert reads[0] < reads[1] < reads[2]


def test_devices_share_the_work_and_not_the_launches():
    one = roofline(SPEC, DENSE_CONFIG, ONE, ROUND).decode
    two = roofline(SPEC, DENSE_CONFIG, ONE.model_copy(update={"tensor_parallel": 2}), ROUND).decode
    norms = sum(fixed_bytes(SPEC, tensor, DENSE_CONFIG) for tensor in SPEC.fixed if tensor.block is not None)
    whole = norms / ROUND.bandwidth_bytes_per_s
    assert two.weights_s == pytest.approx((one.weights_s - whole) / 2 + whole), "each device reads the norms"
    assert two.launches_s == one.launches_s


def test_devices_beyond_the_key_value_heads_read_no_less_of_the_cache():
    """Llama-3.1-8B has 8 of them: on 16 and 32 devices each reads one head, as on 8."""
    spec, long = tiny_spec(heads=32, kv_heads=8, hidden=1024), Workload(batch=64, prompt_tokens=100)
    eight, sixteen, most = (
        roofline(spec, DENSE_CONFIG, long.model_copy(update={"tensor_parallel": n}), ROUND).decode
        for n in (8, 16, 32)
    )
    assert eight.cache_s == pytest.approx(sixteen.cache_s)
    assert eight.cache_s == pytest.approx(most.cache_s)
    assert sixteen.weights_s > eight.weights_s / 2


PRUNED_SIZES = (
    PrunedShape(),
    PrunedShape(blocks=(0, 1)),
    PrunedShape(kv_heads=1),
    PrunedShape(ffn_channels=128),
)


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([2, 3, 4, 5, 6]),
    batch=st.integers(1, 64),
    prompt=st.integers(1, 64),
    pruned=st.sampled_from(PRUNED_SIZES),
)
def test_what_must_hold(bits, batch, prompt, pruned):
    workload = Workload(batch=batch, prompt_tokens=prompt, output_tokens=8)

    def cost(config: CompressionConfig, at: Workload = workload) -> Roofline:
        return roofline(SPEC, config, at, ROUND)

    narrow, wide = uniform(SPEC, bits), uniform(SPEC, bits + 1 if bits < 6 else 8)
    assert cost(narrow).decode.seconds <= cost(wide).decode.seconds
    assert cost(narrow).prefill.seconds <= cost(wide).prefill.seconds
    more = workload.model_copy(update={"batch": batch + 1})
    assert cost(narrow).decode.seconds <= cost(narrow, more).decode.seconds
    if pruned.blocks is None:
        smaller = narrow.replaced(pruned=pruned)
        assert cost(smaller).decode.seconds <= cost(narrow).decode.seconds
    kept = CompressionConfig(pruned=pruned)
    assert cost(kept).prefill.seconds <= cost(DENSE_CONFIG).prefill.seconds
    cached = DENSE_CONFIG.replaced(kv=KVFormat(num_bits=8))
    assert cost(cached).decode.seconds <= cost(DENSE_CONFIG).decode.seconds


def test_every_uniform_candidate_has_a_floor():
    for candidate in uniform_candidates(SPEC, ROUND):
        found = roofline(SPEC, candidate.config, ONE, ROUND)
        assert found.decode.seconds > 0
        assert candidate.weight_bytes(SPEC) <= DENSE.weight_bytes(SPEC)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("pruned", [PrunedShape(), PrunedShape(blocks=(0, 2), kv_heads=1, ffn_channels=128)])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_cost_tables_and_rooflines_count_the_same_products(phase, pruned, tied, batch):
    spec = tiny_spec(tied=tied)
    config = CompressionConfig(pruned=pruned)
    workload = Workload(batch=batch, prompt_tokens=16, output_tokens=16)
    floor = list(work(Case(spec, config, workload, ROUND), phase))
    timed = [x for x in workload_operations(spec, config, workload, select_on_cpu) if x.phase == phase]
    products = sum(x.operations for x in floor if x.part == "weights")
    assert products == sum(x.multiplications * x.count for x in timed if x.kind == "linear")
    cache = sum(x.stored_bytes for x in floor if x.part == "cache") / spec.dtype_bytes
    assert cache == sum(_kept(x) for x in timed if x.kind == "attention")


def _kept(operation: Operation) -> int:
    """Numbers of keys and values that attention reads."""
    return 2 * operation.count * operation.batch * operation.n * operation.kv_heads * operation.k


def test_a_window_is_masked_by_the_kernels_here_and_skipped_by_the_floor():
    spec, workload = tiny_spec(window=8), Workload(prompt_tokens=32, output_tokens=16)
    timed = workload_operations(spec, DENSE_CONFIG, workload, select_on_cpu)
    attention = [x for x in timed if x.kind == "attention"]
    assert {(x.phase, x.m, x.n) for x in attention} == {("prefill", 32, 32), ("decode", 1, 8)}
    floor = [x for x in work(Case(spec, DENSE_CONFIG, workload, ROUND), "prefill") if x.part == "cache"]
    pairs = attended_pairs(32, 8)
    assert {x.operations for x in floor} == {4.0 * spec.heads * spec.head_dim * pairs}
    assert pairs < 32 * 32


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_experts_are_those_of_an_even_router_in_both(batch):
    workload = Workload(batch=batch, prompt_tokens=8, output_tokens=8)
    floor = sum(
        x.operations for x in work(Case(EXPERTS, DENSE_CONFIG, workload, ROUND), "decode") if x.operations
    )
    timed = workload_operations(EXPERTS, DENSE_CONFIG, workload, select_on_cpu)
    rounded = sum(x.multiplications * x.count for x in timed if x.phase == "decode")
    # Kernels run a whole number of experts, each on as many tokens.
    assert rounded == pytest.approx(floor, rel=0.3)
    hit = touched_experts(EXPERTS, batch)
    assert EXPERTS.active_experts - 1e-9 <= hit <= EXPERTS.experts

"""Advice for models of the sizes that people ask about: golden numbers, and what must hold for any."""

from __future__ import annotations

import itertools
import json
import re
import time

import pytest

from paretune.profiles.advice import Advice, advise
from paretune.profiles.candidates import (
    DENSE,
    Scored,
    Target,
    four_bit_group,
    half_zeros,
    uniform_candidates,
)
from paretune.profiles.devices import device_names, find_device
from paretune.profiles.levers import levers
from paretune.profiles.slowdown import expanded_prefill_s, seen
from paretune.spaces.architectures import read_model
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.size import dense_bytes, kept_linears, weight_bytes
from paretune.spaces.target import Workload
from tests.fakes import tiny_moe_spec, tiny_spec
from tests.profiles.fakes import REFERENCE, ROUND, llama


def formats(advice: Advice):
    return {each.name: each for each in advice.formats}


def text_of(advice: Advice) -> str:
    parts = [
        *advice.binding.statements,
        *(v.statement for v in advice.verdicts),
        *(s.statement for s in advice.order),
    ]
    parts += [told for each in advice.formats for told in each.slower]
    return "\n".join(parts)


LINEARS_8B = 32 * (4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336)
ROWS_8B = 32 * (4096 + 1024 + 1024 + 4096 + 14336 + 14336 + 4096)
REST_8B = 2 * (2 * 128256 * 4096 + 65 * 4096)


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    return llama("8b", tmp_path_factory.mktemp("8b"))


@pytest.fixture(scope="module")
def seventy(tmp_path_factory):
    return llama("70b", tmp_path_factory.mktemp("70b"))


def test_bytes_of_llama_8b_exactly(eight):
    found = formats(advise(eight, find_device("h100"), Workload()))
    records = 16 * 32 * 7
    assert found["dense"].weight_bytes == 2 * LINEARS_8B + REST_8B == 16_060_522_496
    assert found["int4"].weight_bytes == LINEARS_8B // 2 + 2 * LINEARS_8B // 128 + records + REST_8B
    assert found["int8"].weight_bytes == LINEARS_8B + 2 * ROWS_8B + records + REST_8B
    assert found["fp8"].weight_bytes == LINEARS_8B + 2 * ROWS_8B + REST_8B


def test_at_batch_one_weights_bind_and_four_bits_come_first(eight):
    advice = advise(eight, find_device("h100"), Workload(batch=1, prompt_tokens=128, output_tokens=128))
    assert (advice.binding.resource, advice.binding.phase) == ("weights", "decode")
    assert next(step.name for step in advice.order) == "int4"
    found = formats(advice)
    assert 0.35 < found["int4"].tpot_s / found["dense"].tpot_s < 0.45
    assert all(verdict.fits for verdict in advice.verdicts)


def test_long_prompts_wait_for_arithmetic_and_weights_alone_do_not_help(eight):
    workload = Workload(batch=16, prompt_tokens=2048, output_tokens=16)
    for device, best in (("h100", "fp8"), ("a100", "int8-both")):
        advice = advise(eight, find_device(device), workload)
        assert (advice.binding.resource, advice.binding.phase) == ("compute", "prefill")
        found = formats(advice)
        assert found["int4"].ttft_s == pytest.approx(found["dense"].ttft_s, rel=0.01)
        assert advice.order[0].name == best
        assert any("No faster in prefill" in told for told in found["int4"].slower)


def test_fp8_needs_its_arithmetic(eight):
    workload = Workload(batch=16, prompt_tokens=2048, output_tokens=16)
    for device in ("h100", "l4", "rtx-4090"):
        found = formats(advise(eight, find_device(device), workload))
        assert found["fp8"].ttft_s < 0.6 * found["dense"].ttft_s
    old = formats(advise(eight, find_device("a100"), workload))["fp8"]
    assert "no FP8 arithmetic" in old.label
    assert old.ttft_s == pytest.approx(
        formats(advise(eight, find_device("a100"), workload))["dense"].ttft_s, rel=0.01
    )


def test_a_model_that_does_not_fit_is_told_what_makes_it_fit(seventy):
    advice = advise(seventy, find_device("h100"), Workload(batch=4, prompt_tokens=512, output_tokens=128))
    assert advice.binding.resource == "memory"
    assert "does not fit" in advice.binding.statements[0]
    found = formats(advice)
    assert found["dense"].largest_batch == found["dense"].largest_context == 0
    assert found["int4"].fits
    assert found["int4"].largest_batch > 0
    assert advice.order[0].name == "int4"
    assert advice.order[0].fits
    assert "and it fits" in advice.order[0].statement


def test_two_devices_hold_what_one_does_not(seventy):
    workload = Workload(batch=1, prompt_tokens=512, output_tokens=128)
    assert not formats(advise(seventy, find_device("h100"), workload))["dense"].fits
    shared = workload.model_copy(update={"tensor_parallel": 4})
    assert formats(advise(seventy, find_device("h100"), shared))["dense"].fits


def test_starting_kernels_binds_a_small_model_and_rounding_inputs_makes_it_slower():
    advice = advise(
        tiny_spec(dtype="bfloat16"), find_device("h100"), Workload(prompt_tokens=16, output_tokens=16)
    )
    assert advice.binding.resource == "launches"
    verdicts = {verdict.approach: verdict for verdict in advice.verdicts}
    assert not verdicts["quantize"].fits
    assert verdicts["pruned"].best == "fewer-blocks"
    found = formats(advice)
    assert found["fp8"].tpot_s > found["dense"].tpot_s
    assert any("Slower in decode by the data sheet alone" in told for told in found["fp8"].slower)
    assert [step.approach for step in advice.order] == ["pruned"]


def test_a_long_context_is_bound_by_its_cache(eight):
    workload = Workload(batch=16, prompt_tokens=20_000, output_tokens=4000)
    advice = advise(eight, find_device("h200"), workload)
    assert (advice.binding.resource, advice.binding.phase) == ("cache", "decode")
    assert advice.order[0].name == "kv8"


def test_expanding_weights_by_hand(eight):
    device, workload = find_device("a100-80"), Workload(batch=1, prompt_tokens=512, output_tokens=8)
    target = Target(eight, device, workload)
    dense, four = (Scored(target, each) for each in (DENSE, uniform_candidates(eight, device)[-1]))
    packed = LINEARS_8B // 2 + 2 * LINEARS_8B // 128
    extra = (packed + 2 * LINEARS_8B) / device.bandwidth_bytes_per_s
    # The 16-byte shape records are no part of what is moved.
    assert expanded_prefill_s(dense, four) == pytest.approx(dense.floors.prefill.seconds + extra, rel=1e-5)


@pytest.mark.parametrize("name", ["dense", "int4"])
def test_the_largest_batch_fits_and_one_more_does_not(eight, name):
    device, workload = find_device("l4"), Workload(batch=1, prompt_tokens=1024, output_tokens=128)
    candidate = next(each for each in uniform_candidates(eight, device) if each.name == name)
    found = Scored(Target(eight, device, workload), candidate)
    batch = found.largest_batch
    assert batch > 0
    for count, fits in ((batch, True), (batch + 1, False)):
        asked = workload.model_copy(update={"batch": count})
        assert (found.memory_at(asked) <= found.target.usable_bytes) is fits


def test_the_longest_context_fits_and_one_more_does_not(eight):
    device, workload = find_device("rtx-4090"), Workload(batch=4, prompt_tokens=64, output_tokens=64)
    found = Scored(Target(eight, device, workload), DENSE)
    context = found.largest_context
    assert 128 < context < eight.context
    for tokens, fits in ((context, True), (context + 1, False)):
        asked = workload.model_copy(update={"prompt_tokens": tokens - 64})
        assert (found.memory_at(asked) <= found.target.usable_bytes) is fits


def test_the_models_own_context_is_the_longest():
    spec = tiny_spec()
    target = Target(spec, ROUND, Workload(prompt_tokens=16, output_tokens=16))
    assert Scored(target, DENSE).largest_context == spec.context


def test_two_four_zeros_leave_out_bytes_by_hand(eight):
    target = Target(eight, find_device("h100"), Workload())
    (sparse,) = levers(target, DENSE, "prune")
    # Half of the 16-bit values and two bits for each: 9/16 of the linears' bytes.
    assert sparse.weight_bytes(eight) == dense_bytes(eight) - 7 * 2 * LINEARS_8B // 16
    assert weight_bytes(eight, half_zeros(eight, DENSE_CONFIG)) == dense_bytes(eight), (
        "our own container keeps them"
    )


def test_four_bit_groups_divide_every_row():
    assert four_bit_group(tiny_spec()) == 128
    assert four_bit_group(tiny_spec(hidden=96, heads=3, kv_heads=3, head_dim=32)) == 32
    assert four_bit_group(tiny_spec(hidden=72, heads=3, kv_heads=3, head_dim=24, ffn=100)) is None


@pytest.mark.parametrize("device", device_names())
@pytest.mark.parametrize("workload", ["b1-p64-o64", "b64-p128-o64"])
@pytest.mark.parametrize(
    "spec",
    [tiny_spec(), tiny_spec(dtype="bfloat16", tied=False), tiny_moe_spec()],
    ids=["fp32", "bf16", "mixture"],
)
def test_every_device_gets_consistent_advice(device, workload, spec):
    advice = advise(spec, find_device(device), Workload.parse(workload))
    assert Advice.from_json(advice.to_json()) == advice
    found = formats(advice)
    assert next(iter(found)) == "dense"
    assert found["int4"].weight_bytes < found["int8"].weight_bytes < found["dense"].weight_bytes
    assert found["int4"].largest_batch >= found["int8"].largest_batch >= found["dense"].largest_batch
    assert {verdict.approach for verdict in advice.verdicts} == {"quantize", "prune", "pruned"}
    for step in advice.order:
        assert step.gain >= 1.1 or not found["dense"].fits
    told = text_of(advice)
    assert not re.search(r"\bnan\b|\binf\b|None|\{|  ", told)
    assert re.search(r"\d", told)


def test_steps_build_on_one_another(eight):
    order = advise(eight, find_device("h100"), Workload(batch=8, prompt_tokens=512, output_tokens=128)).order
    times = [step.request_s for step in order]
    assert times == sorted(times, reverse=True)
    for before, after in itertools.pairwise(order):
        assert after.gain == pytest.approx(before.request_s / after.request_s)
    tiers = ["quantize", "prune", "pruned"]
    assert [tiers.index(step.approach) for step in order] == sorted(
        tiers.index(step.approach) for step in order
    )


def test_measured_kernels_are_quoted_on_the_device_and_its_kin():
    pairs = seen("int4", find_device("h200"))
    assert pairs[0].slowdown == pytest.approx(4869 / 180)
    assert pairs[-1].slowdown < 1
    assert seen("int4", find_device("h100")) == pairs
    assert seen("int4", find_device("l4")) == ()
    advice = advise(
        tiny_spec(dtype="bfloat16"), find_device("h100"), Workload(prompt_tokens=16, output_tokens=16)
    )
    assert any("Seen on NVIDIA H200" in told for told in formats(advice)["int4"].slower)


def test_the_largest_models_take_less_than_ten_seconds(seventy):
    start = time.perf_counter()
    advise(seventy, find_device("h200"), Workload(batch=32, prompt_tokens=4096, output_tokens=512))
    assert time.perf_counter() - start < 10


def test_a_workload_beyond_the_context_is_refused(eight):
    with pytest.raises(ConfigurationError, match="131,072"):
        advise(eight, find_device("h100"), Workload(prompt_tokens=131_072, output_tokens=1))


def test_the_container_of_fp8_has_no_shape_records(eight):
    int8, fp8 = (
        each for each in uniform_candidates(eight, find_device("h100")) if each.name in ("int8", "fp8")
    )
    quantized = [x for x in kept_linears(eight, fp8.config) if x.block is not None]
    assert int8.weight_bytes(eight) - fp8.weight_bytes(eight) == 16 * len(quantized)


@pytest.mark.reference
@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no ../shared/models beside the checkout")
@pytest.mark.parametrize("name", ["reference-48m", "reference-moe"])
def test_reference_models(name):
    advice = advise(read_model(REFERENCE / name), find_device("h200"), Workload())
    assert advice.binding.resource == "launches", "a small model at batch 1 cannot keep a large GPU busy"
    assert json.loads(advice.to_json())["device"]["name"] == "h200"

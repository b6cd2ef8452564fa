"""Limits that nothing in the space meets, and which points are smallest."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.search.feasibility import check_feasible, smallest
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.errors import LimitError
from paretune.spaces.limits import Limit
from paretune.spaces.measurement import Measurement
from paretune.spaces.patterns import Restrictions
from paretune.spaces.size import kv_cache_bytes, weight_bytes
from paretune.spaces.space import SearchSpace
from paretune.spaces.target import Workload
from tests.fakes import FakeLegality, tiny_spec

WORKLOAD = Workload()


def _space(legality=None, **restrictions):
    """One block: four groups, an embedding, the cache and every pruned size of the tiny model."""
    wanted = {
        "bits": (4, 8, 16),
        "embedding_bits": (8, 16),
        "group_size": 32,
        "methods": ("rtn",),
        **restrictions,
    }
    return SearchSpace(tiny_spec(blocks=1), legality or FakeLegality(), Restrictions(**wanted))


def _everything(space):
    points = itertools.product(*(range(size) for size in space.sizes))
    return [point for point in points if space.ruling(point)]


def _bytes(space, point):
    config = space.decode(point)
    return weight_bytes(space.spec, config), kv_cache_bytes(space.spec, config, WORKLOAD)


def _costs(space):
    def costs(config):
        return {"weight_bytes": Measurement(value=float(weight_bytes(space.spec, config)), unit="B")}

    return costs


@pytest.mark.parametrize("methods", [("rtn",), ("hqq", "rtn")])
def test_smallest_is_found_by_enumeration_too(methods):
    """Of every pruned size the fewest bytes of weights, and with those of the cache."""
    space = _space(sparsity=(0.0,), bits=(4, 16), methods=methods)
    found = {space.pruned(point): _bytes(space, point) for point in smallest(space)}
    expected = {}
    for point in _everything(space):
        pruned, sizes = space.pruned(point), _bytes(space, point)
        expected[pruned] = min(expected.get(pruned, sizes), sizes)
    assert len(smallest(space)) == len(found) == 6
    assert found == expected


def test_the_smallest_cache_need_not_be_the_last_that_is_offered():
    space = _space(kv_bits=(16, "8-fp", "8-ggml"), kv_heads=(2,), ffn_channels=(256,))
    caches = space.parameters[space.index("kv")].choices
    sizes = [kv_cache_bytes(space.spec, DENSE_CONFIG.replaced(kv=cache), WORKLOAD) for cache in caches]
    assert sizes.index(min(sizes)) != len(sizes) - 1
    (point,) = smallest(space)
    assert point[space.index("kv")] == sizes.index(min(sizes))


def test_pruned_sizes_that_are_refused_are_no_candidates():
    refused = FakeLegality(refused_pruned=("kvheads1-ffn128",))
    space = _space(refused)
    names = [space.pruned(point).name for point in smallest(space)]
    assert sorted(names) == ["ffn128", "ffn192", "kvheads1", "kvheads1-ffn192", "whole"]


def test_without_smaller_pruned_sizes_there_is_one():
    space = _space(kv_heads=(2,), ffn_channels=(256,))
    assert len(smallest(space)) == 1


def test_a_limit_at_the_smallest_is_met_and_a_byte_below_is_not():
    space = _space()
    least = min(_bytes(space, point)[0] for point in smallest(space))
    check_feasible(space, _costs(space), (Limit.parse(f"bytes<={least}"),))
    with pytest.raises(LimitError) as refusal:
        check_feasible(space, _costs(space), (Limit.parse(f"bytes<={least - 1}"),))
    for part in (f"bytes<={least - 1}", f"nearest meets weight_bytes<={least}"):
        assert part in str(refusal.value)


def test_every_limit_is_looked_at():
    space = _space()
    limits = (Limit.parse("bytes<=1GB"), Limit.parse("bytes<=1kB"))
    with pytest.raises(LimitError, match="1kB"):
        check_feasible(space, _costs(space), limits)


def test_a_predicted_time_is_judged_too():
    space = _space()

    def costs(config):
        seconds = 0.010 if config.pruned.whole else 0.004
        return {"tpot_s_predicted": Measurement(value=seconds, unit="s", source="predicted")}

    check_feasible(space, costs, (Limit.parse("tpot<=4ms"),))
    with pytest.raises(LimitError, match=r"tpot<=3ms.*0\.004"):
        check_feasible(space, costs, (Limit.parse("tpot<=3ms"),))


@pytest.mark.parametrize("text", ["bytes>=1TB", "bytes>=1", "kl<=0.0001", "tpot<=1us"])
def test_lower_limits_and_what_is_not_known_yet_are_let_through(text):
    space = _space()
    check_feasible(space, _costs(space), (Limit.parse(text),))


def test_without_limits_nothing_is_computed():
    def costs(config):
        raise AssertionError(config)

    check_feasible(_space(), costs, ())


def test_the_dense_model_alone_is_the_smallest_of_a_space_of_one():
    space = _space(
        bits=(16,), embedding_bits=(16,), sparsity=(0.0,), kv_bits=(16,), kv_heads=(2,), ffn_channels=(256,)
    )
    assert [space.decode(point) for point in smallest(space)] == [DENSE_CONFIG]


def test_a_pruned_that_refuses_the_narrowest_format_is_smallest_with_another():
    """160 channels take no groups of 64, so that pruned model's down projection stays dense and the rest does not."""
    spec = tiny_spec(blocks=1, dtype="bfloat16")
    wanted = Restrictions(
        bits=(8, 16), embedding_bits=(16,), group_size=64, methods=("rtn",), sparsity=(0.0,), kv_bits=(16,),
        kv_heads=(2,), ffn_channels=(160,),
    )  # fmt: skip
    space = SearchSpace(spec, FakeLegality(), wanted)
    least = min(weight_bytes(spec, space.decode(point)) for point in _everything(space))
    assert min(weight_bytes(spec, space.decode(point)) for point in smallest(space)) == least
    check_feasible(space, _costs(space), (Limit.parse(f"weight_bytes<={least}"),))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_least_time_is_the_enumerated_one(seed):
    """Of times that add up over parameters, with a pruned model that refuses the narrow format of one of its groups."""
    space = _space(
        bits=(4, 16), embedding_bits=(16,), group_size=64, sparsity=(0.0,), kv_bits=(16,), kv_heads=(2,),
        ffn_channels=(160,),
    )  # fmt: skip
    random = np.random.default_rng(seed)
    seconds = [random.integers(1, 20, size) for size in space.sizes]

    def costs(config):
        total = sum(int(own[choice]) for own, choice in zip(seconds, space.encode(config), strict=True))
        return {"tpot_s_predicted": Measurement(value=float(total), unit="s", source="predicted")}

    least = min(costs(space.decode(point))["tpot_s_predicted"].value for point in _everything(space))
    check_feasible(space, costs, (Limit.parse(f"tpot<={least}"),))
    with pytest.raises(LimitError, match=f"nearest meets tpot_s<={least:g}"):
        check_feasible(space, costs, (Limit.parse(f"tpot<={least - 0.5}"),))


def test_times_are_judged_where_narrow_formats_are_slower():
    """Every quantized layer costs a millisecond here: the dense model meets what the smallest ones break."""
    space = _space()

    def costs(config):
        quantized = sum(not choice.weight.dense for choice in config.layers.values())
        return {
            "ttft_s_predicted": Measurement(value=0.010 + 0.001 * quantized, unit="s", source="predicted")
        }

    check_feasible(space, costs, (Limit.parse("ttft<=12ms"),))
    with pytest.raises(LimitError, match=r"nearest meets \w+<=0\.01"):
        check_feasible(space, costs, (Limit.parse("ttft<=9ms"),))

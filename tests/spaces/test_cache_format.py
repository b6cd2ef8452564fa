"""Formats of the cache: exact bytes, names, one format a block, and JSON that stays what it was."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError, FormatError
from paretune.spaces.patterns import Restrictions
from paretune.spaces.size import kv_cache_bytes
from paretune.spaces.space import SearchSpace
from paretune.spaces.target import Workload
from tests.fakes import FakeLegality, tiny_spec

SIXTEEN, EIGHT, FOUR, TWO = (KVFormat(num_bits=bits) for bits in (16, 8, 4, 2))
FLOAT = KVFormat(num_bits=8, number_type="float")
GGML = KVFormat(num_bits=8, number_type="ggml")
PLAIN = st.sampled_from((SIXTEEN, EIGHT, FOUR, TWO, FLOAT, GGML))
SPEC = tiny_spec()


def test_bytes_by_hand():
    assert SIXTEEN.stored_bytes(2, 64) == 512
    assert EIGHT.stored_bytes(2, 64) == 2 * 2 * (64 + 2)
    assert FLOAT.stored_bytes(2, 64) == 2 * 2 * 64
    assert FOUR.stored_bytes(2, 64) == 2 * 2 * (32 + 2 * 2 * 2)
    assert TWO.stored_bytes(2, 64) == 2 * 2 * (16 + 2 * 2 * 2)
    # blocks of 34 bytes, whatever the model's dtype
    assert GGML.stored_bytes(2, 64) == GGML.stored_bytes(2, 64, 4) == 2 * 2 * 2 * 34
    # the last group is shorter, the last byte may be half empty, scales of a float32 model have 4 bytes
    assert FOUR.stored_bytes(1, 33, 4) == 2 * (17 + 2 * 2 * 4)
    assert TWO.stored_bytes(3, 80) == 2 * 3 * (20 + 3 * 2 * 2)


@settings(max_examples=30)
@given(heads=st.integers(1, 64), head_dim=st.integers(32, 300), dtype=st.sampled_from((2, 4)))
def test_fewer_bits_are_fewer_bytes(heads, head_dim, dtype):
    sizes = [kv.stored_bytes(heads, head_dim, dtype) for kv in (SIXTEEN, EIGHT, FOUR, TWO)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    assert FLOAT.stored_bytes(heads, head_dim, dtype) < sizes[1]


def test_names_and_words():
    words = (16, 8, "8-fp", "8-ggml", 4, 2)
    assert [KVFormat.named(word).name for word in words] == [f"kv{word}" for word in words]
    scaled = FLOAT.model_copy(update={"key_scale": 0.5})
    assert scaled.name == "kv8-fp-scaled"
    assert KVFormat.layered([SIXTEEN, SIXTEEN, FOUR, FLOAT]).name == "kv-2x16-1x4-1x8-fp"
    assert KVFormat.layered([scaled, FLOAT.model_copy(update={"key_scale": 2.0})]).name == "kv8-fp-scaled"


def test_json_of_what_there_was_is_unchanged():
    assert SIXTEEN.to_json() == '{"num_bits":16}'
    assert EIGHT.to_json() == '{"num_bits":8}'
    assert FLOAT.to_json() == '{"num_bits":8,"number_type":"float"}'
    # recorded before formats other than 16 and 8 bits existed
    assert DENSE_CONFIG.digest.startswith("aab63c7248d4")
    assert CompressionConfig(kv=EIGHT).digest.startswith("deffdf7fd16a")


@settings(max_examples=30)
@given(st.lists(PLAIN, min_size=1, max_size=6))
def test_json_round_trip(formats):
    config = CompressionConfig(kv=KVFormat.layered(formats))
    found = CompressionConfig.from_json(config.to_json())
    assert found == config
    assert found.digest == config.digest
    assert [found.kv.block(index) for index in range(len(formats))] == formats


def test_equal_blocks_are_one_format():
    assert KVFormat.layered([FOUR, FOUR]) == FOUR
    with pytest.raises(FormatError, match="must be plain, and differ"):
        KVFormat(num_bits=4, layers=(FOUR, FOUR))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_bits": 4, "number_type": "float"}, "have 8 bits"),
        ({"num_bits": 16, "number_type": "float"}, "have 8 bits"),
        ({"num_bits": 8, "number_type": "float", "key_scale": 0.0}, "positive and finite"),
        ({"num_bits": 8, "number_type": "float", "value_scale": float("nan")}, "positive and finite"),
        ({"num_bits": 8, "key_scale": 0.5}, "integers have a scale a token"),
        ({"num_bits": 8, "layers": (SIXTEEN, FOUR)}, "says the smallest width, 4"),
        ({"num_bits": 2, "layers": (KVFormat.layered([SIXTEEN, TWO]), TWO)}, "must be plain"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(FormatError, match=message):
        KVFormat(**fields)


def test_no_format_is_refused():
    with pytest.raises(FormatError, match="every block needs one"):
        KVFormat.layered([])


def test_another_number_of_blocks_is_refused():
    layered = KVFormat.layered([SIXTEEN, FOUR])
    with pytest.raises(ConfigurationError, match="formats of 2 blocks: the model has 3"):
        layered.check_blocks(3)
    with pytest.raises(ConfigurationError, match="formats of 2 blocks"):
        layered.block(2)
    with pytest.raises(ConfigurationError, match="blocks differ"):
        layered.stored_bytes(1, 64)
    FOUR.check_blocks(7)


def test_the_cache_counts_every_block_by_its_own_format():
    formats = [SIXTEEN, FOUR, TWO, FLOAT, EIGHT][: SPEC.blocks]
    workload = Workload(batch=3, prompt_tokens=12, output_tokens=4)
    config = CompressionConfig(kv=KVFormat.layered(formats))
    one = [kv_cache_bytes(SPEC, CompressionConfig(kv=kv), workload) for kv in formats]
    assert kv_cache_bytes(SPEC, config, workload) * SPEC.blocks == sum(one)
    # blocks are those of the dense model: a cut block takes its format with it
    last = SPEC.blocks - 1
    cut = config.replaced(pruned=PrunedShape(blocks=(last,)))
    assert kv_cache_bytes(SPEC, cut, workload) * SPEC.blocks == one[last]


def test_a_space_offers_what_is_asked_for():
    def choices(*words):
        space = SearchSpace(SPEC, FakeLegality(), Restrictions(kv_bits=words))
        return space.parameters[space.index("kv")].choices

    assert SearchSpace(SPEC, FakeLegality()).restrictions.kv_bits == (16, 8)
    assert choices(2, "8-fp", 16, 4, 8) == (SIXTEEN, EIGHT, FLOAT, FOUR, TWO)
    assert choices("8-fp") == (FLOAT,)

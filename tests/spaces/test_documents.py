"""Every document survives JSON, refuses unknown keys, and has a digest that does not depend on order."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.formats import integer_format
from paretune.spaces.limits import Limit
from paretune.spaces.measurement import Fidelity, Measurement, Record
from paretune.spaces.metrics import METRICS
from paretune.spaces.model import ModelSpec
from paretune.spaces.result import FrontFile, LatencyCheck, Member, RunDocument
from paretune.spaces.schema import Document, canonical_json, sha256_of
from paretune.spaces.statistics import numbered
from paretune.spaces.target import Device, Workload
from tests.fakes import tiny_moe_spec, tiny_spec

CONFIG = CompressionConfig(
    layers={
        "b": LayerChoice(weight=integer_format(4, 64, symmetric=False), method="hqq"),
        "a": LayerChoice(sparsity=Sparsity(fraction=0.5, pattern="2:4", criterion="magnitude")),
    },
    kv=KVFormat(num_bits=8),
    pruned=PrunedShape(blocks=(0, 2), kv_heads=1, ffn_channels=64),
)
MEASURED = {
    "kl": Measurement(
        value=0.1 + 0.2, unit="nat", stderr=1e-17, n=3, by="kl/1", per_window=(0.1, 0.2), sample=numbered(2)
    )
}
RECORD = Record(
    index=0,
    digest=CONFIG.digest,
    name="x",
    config=CONFIG,
    sampler="paretune",
    fidelity=Fidelity(windows=8, window_tokens=256),
    tokens=2048,
    evaluations=0.125,
    seconds=0.5,
    measurements=MEASURED,
    violations={"kl<=0.1": 2.0},
)
MEMBER = Member(
    digest=CONFIG.digest, name="x", kind="searched", on_front=True, config=CONFIG, measurements=MEASURED
)
FRONT = FrontFile(
    objectives=("kl", "weight_bytes"),
    reference_point={"kl": 1.0},
    hypervolume=0.5,
    recommended="x",
    members=(MEMBER,),
)
DEVICE = Device(
    name="d",
    label="D",
    kind="cpu",
    generation="x86",
    memory_bytes=1,
    bandwidth_bytes_per_s=1e9,
    cache_bytes=1,
    peak_operations_per_s={"fp32": 1e12},
    launch_s=1e-6,
    source="nowhere",
)
RUN = RunDocument(
    status="complete",
    created="2026-01-01T00:00:00Z",
    model={"source": "x"},
    engine="torch-cpu",
    device={},
    workload={},
    settings={"a": [1, None]},
    versions={"paretune": "0"},
    hashes={},
    seed=0,
    texts={},
    latency_checks=(LatencyCheck(name="x", digest="y", predicted_s=1.0, measured_s=1.1),),
)
DOCUMENTS = (
    CONFIG,
    CompressionConfig(),
    tiny_spec(),
    tiny_moe_spec(),
    RECORD,
    FRONT,
    RUN,
    DEVICE,
    Workload(batch=2),
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: type(d).__name__)
class TestDocuments:
    def test_json_round_trip(self, document):
        again = type(document).from_json(document.to_json())
        assert again == document
        assert again.to_json() == document.to_json()

    def test_unknown_keys_are_refused(self, document):
        values = {**json.loads(document.to_json()), "colour": "red"}
        with pytest.raises(ValidationError, match="colour"):
            type(document).model_validate(values)

    def test_another_schema_is_refused(self, document):
        values = {**json.loads(document.to_json()), "schema_version": 2}
        with pytest.raises(ValidationError, match="schema_version"):
            type(document).model_validate(values)

    def test_values_do_not_change(self, document):
        with pytest.raises(ValidationError, match="frozen"):
            document.schema_version = 1


def test_every_document_of_spaces_is_tested():
    known = {kind for kind in _subclasses(Document) if kind.__module__.startswith("paretune.spaces.")}
    assert known == {type(document) for document in DOCUMENTS}
    assert ModelSpec in known


def _subclasses(kind: type) -> set[type]:
    return {kind}.union(*(_subclasses(child) for child in kind.__subclasses__())) - {Document}


CHOICES = st.sampled_from(
    [LayerChoice(weight=integer_format(b), method="rtn") for b in (2, 3, 4)] + [LayerChoice()]
)


@given(st.dictionaries(st.text(min_size=1, max_size=8), CHOICES), st.randoms())
@settings(max_examples=100)
def test_the_digest_does_not_depend_on_order_or_untouched_layers(layers, random):
    items = list(layers.items())
    random.shuffle(items)
    one, other = CompressionConfig(layers=layers), CompressionConfig(layers=dict(items))
    touched = CompressionConfig(layers={k: v for k, v in layers.items() if not v.untouched})
    assert one == other == touched
    assert one.digest == other.digest == touched.digest
    assert CompressionConfig.from_json(one.to_json()).digest == one.digest
    assert hash(one) == hash(other)


def test_different_configurations_have_different_digests():
    changed = [
        CONFIG.replaced(kv=KVFormat()),
        CONFIG.replaced(pruned=PrunedShape()),
        CONFIG.replaced(layers={}),
        CONFIG,
    ]
    assert len({config.digest for config in changed}) == 4


def test_a_copy_forgets_what_was_computed():
    copy = CONFIG.model_copy(update={"kv": KVFormat()})
    assert copy.digest == CONFIG.replaced(kv=KVFormat()).digest != CONFIG.digest
    spec = tiny_spec()
    assert spec.parameters > spec.model_copy(update={"linears": spec.linears[1:]}).parameters


def test_the_digest_of_the_dense_model_is_stable():
    text = (
        '{"kv":{"num_bits":16},"layers":{},'
        '"pruned":{"blocks":null,"ffn_channels":null,"kv_heads":null},"schema_version":1}'
    )
    assert CompressionConfig().to_json() == text
    assert CompressionConfig().digest == sha256_of(json.loads(text))
    assert CompressionConfig().digest == "aab63c7248d4ab173f7ed95dfe15be8baf551dc7430c095743bdb37d25590835"


def test_canonical_json_has_no_nan():
    assert canonical_json({"b": 1, "a": "ä"}) == '{"a":"\\u00e4","b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_measurements_are_finite(value):
    with pytest.raises(ConfigurationError, match="must be finite"):
        Measurement(value=value)


@pytest.mark.parametrize("blocks", [(), (1, 0), (1, 1), (-1,)])
def test_kept_blocks_are_ascending(blocks):
    with pytest.raises(ConfigurationError, match="distinct, ascending"):
        PrunedShape(blocks=blocks)


def test_a_choice_names_a_method_exactly_when_it_quantizes():
    with pytest.raises(ConfigurationError, match="method 'none'"):
        LayerChoice(weight=integer_format(4))
    with pytest.raises(ConfigurationError, match="method 'rtn'"):
        LayerChoice(method="rtn")


@pytest.mark.parametrize("metric", METRICS)
def test_limits_can_be_written_for_every_metric(metric):
    assert Limit.parse(f"{metric}<=1").metric == metric

"""vLLM's CPU build loads and runs what is exported for it: pruned models, W8A8 beside 16 bits by fused group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from paretune import demo
from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.loading import load_dense, load_tokenizer, model_hash
from paretune.compressors.windows import read_windows
from paretune.engines.engine import ExportCard
from paretune.engines.group_ruling import ruling_by_group
from paretune.engines.predictions import Predictions
from paretune.engines.verification import LEAST_TOLERANCE, compare_predictions, verify_export
from paretune.engines.vllm_engine import Vllm
from paretune.spaces.architectures import read_model
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, WHOLE, CompressionConfig, PrunedShape
from paretune.spaces.errors import VerificationError
from paretune.spaces.named_formats import find_choice
from paretune.spaces.size import weight_bytes
from tests.engines.conftest import running

pytestmark = pytest.mark.engine

SPEC = read_model(demo.MODEL)
DYNAMIC, STATIC = find_choice("w8a8-dynamic"), find_choice("w8a8-static")
PRUNED = PrunedShape(blocks=(0, 1, 2, 4, 5), kv_heads=1, ffn_channels=384)


def mixed(*chosen: LayerChoice, pruned: PrunedShape = WHOLE, first: int = 0) -> CompressionConfig:
    """The choices in turn in every other fused group, beginning with the ``first``; 16 bits in the rest."""
    groups = [
        group for group in Vllm().legality("cpu").groups(SPEC)
        if group.kind == "linear" and pruned.keeps_block(group.block)
    ]  # fmt: skip
    layers = {
        layer: chosen[index % len(chosen)]
        for index, group in enumerate(groups[first::2])
        for layer in group.layers
    }
    return CompressionConfig(layers=layers, pruned=pruned)


def in_blocks(*blocks: int, pruned: PrunedShape = WHOLE) -> CompressionConfig:
    """W8A8 in some blocks."""
    layers = {x.name: DYNAMIC for x in SPEC.block_linears if x.block in blocks}
    return CompressionConfig(layers=layers, pruned=pruned)


OTHER_PRUNED = PRUNED.model_copy(update={"blocks": (0, 1, 3, 4, 5)})

CANDIDATES = {
    "dense": (DENSE_CONFIG, 1e-8),
    "pruned": (CompressionConfig(pruned=PRUNED), 1e-8),
    "dynamic": (mixed(DYNAMIC), 1e-5),
    "static": (mixed(STATIC, first=1), 1e-5),
    "both": (mixed(DYNAMIC, STATIC), 1e-5),
    "pruned model, dynamic": (mixed(DYNAMIC, pruned=PRUNED), 1e-4),
    "pruned model, static": (mixed(STATIC, pruned=PRUNED, first=1), 1e-4),
    "even blocks": (in_blocks(0, 2, 4), 5e-6),
}
"""With the KL that is allowed, in nats a token: an input at the edge of two codes may fall either way."""

SIBLINGS = {
    "pruned model, dynamic": (mixed(DYNAMIC, pruned=OTHER_PRUNED), LEAST_TOLERANCE),
    "even blocks": (in_blocks(1, 3, 5), 5e-6),
}
"""Candidates of the same bytes that an export must not be taken for, and the tolerance that tells them apart."""


@dataclass
class Runs:
    """Exports of the embedded model, and what vLLM predicts from each on held-out text."""

    assembler: Assembler
    ids: torch.Tensor
    folders: dict[str, Path]
    predictions: dict[str, Predictions]
    settings: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All in one process of vLLM, which takes longer to import than to run."""
    engine = running("vllm")
    if engine.here() != "cpu":
        pytest.skip("the vLLM that was found is not its CPU build")
    model, tokenizer = load_dense(demo.MODEL, SPEC), load_tokenizer(demo.MODEL)
    calibration, held = (
        read_windows(tokenizer, demo.TEXTS / f"{text}.txt", text, window_tokens=64, count=4)
        for text in ("calibration", "report")
    )
    root = tmp_path_factory.mktemp("vllm")
    bank = Bank.open(root / "bank", demo.MODEL, model, SPEC, model_hash(demo.MODEL), calibration)
    assembler = Assembler(model, SPEC, bank)
    folders = {
        name: engine.export(assembler, config, root / name.replace(", ", "-"), ExportCard(demo.MODEL, name))
        for name, (config, _) in CANDIDATES.items()
    }
    settings = root / "settings"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CONFIG_ROOT", str(settings))
        patch.setenv("VLLM_NO_USAGE_STATS", "0")
        found = engine.many_predictions(list(folders.values()), held.ids)
    return Runs(assembler, held.ids, folders, dict(zip(folders, found, strict=True)), settings)


@pytest.fixture
def verify(runs, monkeypatch):
    """``verify(name, config, tolerance)``: of an export that vLLM has run already."""

    def compare(name, config, tolerance):
        predicted = runs.predictions[name]
        assert isinstance(predicted, Predictions), predicted
        monkeypatch.setattr(Vllm, "predictions", lambda *_: predicted)
        return verify_export(
            Vllm(), runs.assembler, config, runs.folders[name], runs.ids, tolerance=tolerance
        )

    return compare


def test_every_candidate_is_for_this_device():
    legality = Vllm().legality("cpu")
    for config, _ in CANDIDATES.values():
        assert ruling_by_group(legality, SPEC, config)


@pytest.mark.parametrize("name", list(CANDIDATES))
def test_an_export_is_its_candidate(verify, name):
    config, allowed = CANDIDATES[name]
    found = verify(name, config, allowed)
    assert found.top1_agreement > 0.99
    assert found.tokens == 256


@pytest.mark.parametrize("name", list(SIBLINGS))
def test_another_candidate_of_the_same_bytes_fails(runs, verify, name):
    (config, _), (other, tolerance) = CANDIDATES[name], SIBLINGS[name]
    assert weight_bytes(SPEC, other) == weight_bytes(SPEC, config)
    verify(name, config, tolerance)
    model = runs.assembler.apply(Vllm().executed_config(SPEC, other, "cpu"))
    assert compare_predictions(model, runs.predictions[name], runs.ids).kl > 10 * tolerance
    with pytest.raises(VerificationError, match="differs from the searched candidate"):
        verify(name, other, tolerance)


def test_no_usage_is_counted(runs):
    """Where it is, ``usage_stats.json`` lies beside vLLM's settings."""
    assert not list(runs.settings.rglob("*.json"))


@pytest.mark.parametrize("name", ["dynamic", "pruned model, dynamic"])
def test_inputs_are_divided_by_their_largest_magnitude_over_127(runs, name):
    """Compressed-tensors divides by 127.5: as it computes the candidate, agreement is several times worse."""
    config, _ = CANDIDATES[name]
    as_run, as_written = (
        compare_predictions(runs.assembler.apply(one), runs.predictions[name], runs.ids).kl
        for one in (Vllm().executed_config(SPEC, config, "cpu"), config)
    )
    assert as_run < as_written / 4

"""An export is compared with its candidate in a fresh process, and anything else is noticed."""

from __future__ import annotations

import pytest
import torch

from paretune.compressors.loading import load_checkpoint
from paretune.engines import find_engine
from paretune.engines.checkpoint.writer import write_checkpoint
from paretune.engines.engine import ExportCard
from paretune.engines.predictions import Predictions
from paretune.engines.transformers_engine import Transformers
from paretune.engines.verification import (
    LEAST_TOLERANCE,
    default_tolerance,
    rounding_divergence,
    verify_export,
)
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.errors import EngineError, EngineUnavailableError, VerificationError
from paretune.spaces.size import weight_bytes
from tests.engines.conftest import assembled_logits, choice, divergence

ENGINE = find_engine("transformers")


def mixed(spec, narrow_block):
    """3 bits in one block, 4 in the others."""
    return CompressionConfig(
        layers={x.name: choice(3 if x.block == narrow_block else 4) for x in spec.block_linears},
        kv=KVFormat(num_bits=8),
    )


@pytest.fixture(scope="module")
def exported(bench, tmp_path_factory):
    """A candidate, its folder, and what a fresh process computed from it."""
    one = bench("llama", tie_word_embeddings=True)
    config = mixed(one.spec, 0)
    folder = tmp_path_factory.mktemp("exported") / "four"
    write_checkpoint(one.assembler, config, folder, ExportCard(one.folder))
    return one, config, folder, ENGINE.predictions(folder, one.ids).log_probabilities


@pytest.fixture
def same_process(exported, monkeypatch):
    """The comparison without starting the process again."""
    monkeypatch.setattr(Transformers, "predictions", lambda *_: Predictions(exported[3]))
    return exported


def test_a_fresh_process_agrees_in_float32(same_process):
    one, config, folder, logits = same_process
    assert logits.shape == (*one.ids.shape, one.spec.vocabulary)
    found = verify_export(ENGINE, one.assembler, config, folder, one.ids, kl_of_candidate=0.2)
    assert found.kl < 1e-6
    assert found.kl_largest < 1e-5
    assert found.top1_agreement == 1.0
    assert found.tokens == one.ids.numel()
    assert found.tolerance == 1e-5
    assert "cache at 16 bits" in found.note


def test_another_candidate_of_the_same_bytes_fails(same_process):
    one, config, folder, logits = same_process
    other = mixed(one.spec, 2)
    assert weight_bytes(one.spec, other) == weight_bytes(one.spec, config)
    assert divergence(assembled_logits(one, other.replaced(kv=KVFormat())), logits) > 10 * LEAST_TOLERANCE
    with pytest.raises(VerificationError, match="differs from the searched candidate") as raised:
        verify_export(ENGINE, one.assembler, other, folder, one.ids)
    assert raised.value.exit_code == 1


def test_what_rounding_moves_the_candidate_by_is_allowed_and_said(exported, monkeypatch):
    one, config, folder, logits = exported
    monkeypatch.setattr(Transformers, "predictions", lambda *_: Predictions(logits.roll(1, dims=-1)))
    monkeypatch.setattr("paretune.engines.verification.rounding_divergence", lambda *_: 100.0)
    found = verify_export(ENGINE, one.assembler, config, folder, one.ids)
    assert found.tolerance == 150.0
    assert "arithmetic in float32 alone moves the candidate by 100" in found.note
    with pytest.raises(VerificationError, match="differs from the searched candidate"):
        verify_export(ENGINE, one.assembler, config, folder, one.ids, tolerance=1e-3)


def test_rounding_moves_a_candidate_by_its_dtype_and_leaves_it_as_it_was(exported):
    one, config, *_ = exported
    model = one.assembler.apply(config.replaced(kv=KVFormat()))
    before = model(input_ids=one.ids, use_cache=False).logits
    fine, coarse = (rounding_divergence(model, one.ids, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert fine < 1e-6 < coarse < LEAST_TOLERANCE
    assert torch.equal(before, model(input_ids=one.ids, use_cache=False).logits)


def test_nan_is_not_agreement(exported, monkeypatch):
    one, config, folder, logits = exported
    monkeypatch.setattr(Transformers, "predictions", lambda *_: Predictions(logits * torch.nan))
    with pytest.raises(VerificationError, match="nan"):
        verify_export(ENGINE, one.assembler, config, folder, one.ids)


@pytest.mark.parametrize("damage", ["flip", "cut", "absent", "config", "manifest"])
def test_a_damaged_export_is_caught_by_hash(exported, tmp_path, damage):
    import shutil

    one, config, folder, _ = exported
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "flip":
        content[-100] ^= 1
        weights.write_bytes(content)
    elif damage == "cut":
        weights.write_bytes(content[:-1])
    elif damage == "absent":
        weights.unlink()
    elif damage == "config":
        (copy / "config.json").write_text("{}")
    else:
        (copy / "paretune.json").unlink()
    with pytest.raises(VerificationError):
        verify_export(ENGINE, one.assembler, config, copy, one.ids)


def test_a_folder_that_cannot_be_loaded_says_why(exported, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    manifest = (exported[2] / "paretune.json").read_text()
    (tmp_path / "paretune.json").write_text(manifest)
    with pytest.raises(EngineError, match=f"{tmp_path}: is refused by transformers: OSError"):
        ENGINE.predictions(tmp_path, torch.zeros(1, 2, dtype=torch.int64))


def test_a_process_that_hangs_is_given_up(exported, monkeypatch):
    one, _, folder, _ = exported
    monkeypatch.setenv("PARETUNE_ENGINE_TIMEOUT_S", "0.01")
    with pytest.raises(EngineUnavailableError, match=r"took longer than 0\.01 s"):
        ENGINE.predictions(folder, one.ids)


def test_a_process_that_others_end_says_nothing_of_the_export(exported, monkeypatch):
    one, _, folder, _ = exported
    monkeypatch.setattr("paretune.engines.environments.run_silently", lambda *_: -9)
    with pytest.raises(EngineUnavailableError, match="SIGKILL"):
        ENGINE.predictions(folder, one.ids)


@pytest.mark.parametrize(
    ("raised", "expected", "code"),
    [(EngineError, VerificationError, 1), (EngineUnavailableError, EngineUnavailableError, 2)],
)
def test_an_engine_that_refuses_is_told_from_one_that_is_not_here(
    exported, monkeypatch, raised, expected, code
):
    one, config, folder, _ = exported

    def refuse(*given):
        raise raised("the engine", "said no", "Ask another")

    monkeypatch.setattr(Transformers, "predictions", refuse)
    with pytest.raises(expected, match="said no") as found:
        verify_export(ENGINE, one.assembler, config, folder, one.ids)
    assert found.value.exit_code == code


def test_the_runner_writes_what_the_model_says(exported):
    one, _, folder, found = exported
    with torch.inference_mode():
        direct = load_checkpoint(folder)(input_ids=one.ids).logits
    torch.testing.assert_close(found, torch.log_softmax(direct, dim=-1), rtol=1e-4, atol=1e-5)


def test_tolerance_is_two_per_cent_of_the_loss_but_never_below_the_floor():
    assert (
        default_tolerance(ENGINE, DENSE_CONFIG, torch.bfloat16, 0.0)
        == default_tolerance(ENGINE, DENSE_CONFIG, torch.bfloat16, 0.05)
        == 1e-3
    )
    assert default_tolerance(ENGINE, DENSE_CONFIG, torch.bfloat16, 1.0) == 0.02
    assert default_tolerance(ENGINE, DENSE_CONFIG, torch.float32, 1.0) == 1e-5

"""The trainer: a few steps lower the loss, the schedule ends at nothing, the scorer agrees with arithmetic."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from paretune.demo.capabilities import CAPABILITIES
from paretune.demo.corpus import read_corpus
from paretune.demo.decoder import Decoder
from paretune.demo.generate import documents, items
from paretune.demo.scoring import score
from paretune.demo.tokenizer import train_tokenizer
from paretune.demo.train import _schedule, train


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(documents("train", 300))


def test_a_few_steps_lower_the_loss(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    settings = argparse.Namespace(
        rate=4e-3,
        seed=0,
        compile=False,
        steps=12,
        batch_tokens=512,
        report_every=11,
        report_items=2,
        keep=True,
        out=tmp_path,
    )
    assert train(Decoder(), read_corpus(tokenizer, 20, processes=1), tokenizer, settings, "cpu") > 0
    first, last = (float(loss) for loss in re.findall(r"loss (\S+)", capsys.readouterr().out))
    assert first > 6.4 > last
    assert (tmp_path / "decoder.pt").exists()


def test_schedule_rises_rests_and_falls_to_nothing() -> None:
    rates = [_schedule(step, 4800) for step in range(4801)]
    assert rates[0] < 0.02
    assert rates[60] == rates[2400] == 1.0
    assert rates[4800] == 0.0
    assert all(0 <= rate <= 1 for rate in rates)


def test_scorer_gives_full_marks_to_who_knows_and_none_to_who_errs(tokenizer: Any) -> None:
    known = {}
    for capability in CAPABILITIES:
        for item in items(capability, 4):
            ending = ";" if capability.generative else ""
            right = tokenizer(item["prompt"])["input_ids"] + tokenizer(item["answer"] + ending)["input_ids"]
            known[tuple(right)] = right

    def oracle(ids: torch.Tensor, sign: float = 1.0) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, 768)
        for row, given in enumerate(ids.tolist()):
            for right in known.values():
                if given[: len(right)] == right:
                    for place, token in enumerate(right[1:]):
                        logits[row, place, token] = 20.0 * sign
        return logits

    assert set(score(oracle, tokenizer, "cpu", 4).values()) == {1.0}
    assert set(score(lambda ids: oracle(ids, -1.0), tokenizer, "cpu", 4).values()) == {0.0}

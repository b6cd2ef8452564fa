"""A tiny model of a family, its bank and its assembler, made once a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.loading import load_dense, model_hash
from paretune.compressors.windows import TokenWindows
from paretune.spaces.architectures import read_model
from paretune.spaces.model import ModelSpec
from tests.models import VOCABULARY, build_tiny

GROUP = 32


@dataclass
class Bench:
    folder: Path
    spec: ModelSpec
    model: Any
    windows: TokenWindows
    bank: Bank
    assembler: Assembler


def make_windows(windows: int = 4, tokens: int = 48, seed: int = 0, text: str = "search") -> TokenWindows:
    generator = torch.Generator().manual_seed(seed)
    return TokenWindows.of(torch.randint(0, VOCABULARY, (windows, tokens), generator=generator), text)


def make_bench(family: str, folder: Path, budget_bytes: int = 2**30, **changes: Any) -> Bench:
    source = build_tiny(family, folder / "model", **changes)
    spec = read_model(source)
    model = load_dense(source, spec)
    windows = make_windows()
    bank = Bank.open(folder / "bank", source, model, spec, model_hash(source), windows)
    return Bench(source, spec, model, windows, bank, Assembler(model, spec, bank, budget_bytes))


@pytest.fixture
def llama(tmp_path):
    return make_bench("llama", tmp_path, dtype="bfloat16")


@pytest.fixture
def mixture(tmp_path):
    return make_bench("qwen3_moe", tmp_path)


def made_now(bank: Any, entry: Any) -> dict[str, Any]:
    """The tensors of an entry, made anew whatever the bank has."""
    from paretune.compressors.entries import make_tensors

    return make_tensors(
        [entry], bank._source, bank.statistics, bank.scale_dtype, bank.observations.seen(entry)
    )[0]

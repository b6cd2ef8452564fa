"""A tiny model with a bank and two texts, made once for all evaluator tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import VOCABULARY, build_tiny


@dataclass
class Bench:
    folder: Path
    spec: Any
    assembler: Any
    teachers: dict[str, Any]
    tokenizer: Any


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    import torch

    from paretune.compressors.assembly import Assembler
    from paretune.compressors.bank import Bank
    from paretune.compressors.divergence import Teacher
    from paretune.compressors.loading import load_dense, load_tokenizer, model_hash
    from paretune.compressors.windows import TokenWindows
    from paretune.spaces.architectures import read_model

    folder = build_tiny("llama", tmp_path_factory.mktemp("tiny") / "model", tie_word_embeddings=True)
    spec = read_model(folder)
    model = load_dense(folder, spec)
    rng = np.random.default_rng(0)
    windows = {
        name: TokenWindows.of(torch.from_numpy(rng.integers(0, VOCABULARY, (count, 32))), name)
        for name, count in (("calibration", 4), ("search", 8), ("report", 6))
    }
    bank = Bank.open(
        folder.parent / "bank", folder, model, spec, model_hash(folder), windows["calibration"], "float32"
    )
    teachers = {name: Teacher(model, windows[name]) for name in ("search", "report")}
    tokenizer = load_tokenizer(folder)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    return Bench(folder, spec, Assembler(model, spec, bank), teachers, tokenizer)

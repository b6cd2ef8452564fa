"""Engines that run here; tiny models with bank and assembler, made once a session; configurations to try on them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.loading import load_dense, model_hash
from paretune.compressors.windows import TokenWindows
from paretune.engines import find_engine
from paretune.engines.engine import Engine
from paretune.spaces.activation_format import ActivationFormat
from paretune.spaces.architectures import read_model
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import WHOLE, CompressionConfig, PrunedShape
from paretune.spaces.formats import integer_format
from paretune.spaces.model import ModelSpec
from tests.models import VOCABULARY, build_tiny

REQUIRED = "PARETUNE_REQUIRE_ENGINES"
"""Set where every engine that can run must be there, as ``.ci/run`` does: a missing one is a failure."""


def running(name: str) -> Engine:
    """The engine; where it does not run here, the test is skipped or, under :data:`REQUIRED`, fails."""
    engine = find_engine(name)
    verdict = engine.available()
    if verdict:
        return engine
    said = f"{name} does not run here: {verdict.reason}"
    if os.environ.get(REQUIRED):
        pytest.fail(f"{said} ({REQUIRED} is set)", pytrace=False)
    pytest.skip(said)


@dataclass
class Bench:
    """A tiny model and what is needed to assemble candidates of it."""

    folder: Path
    spec: ModelSpec
    assembler: Assembler
    ids: torch.Tensor


Make = Callable[..., Bench]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """``bench(family, **changes)``: made once for equal arguments."""
    made: dict[str, Bench] = {}

    def make(family: str = "llama", **changes: Any) -> Bench:
        key = f"{family}{sorted(changes.items())}"
        if key not in made:
            made[key] = build(tmp_path_factory.mktemp(family), family, **changes)
        return made[key]

    return make


def build(folder: Path, family: str, **changes: Any) -> Bench:
    source = build_tiny(family, folder / "model", **{"dtype": "bfloat16", **changes})
    (source / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Tiny\n")
    spec = read_model(source)
    model = load_dense(source, spec)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCABULARY, (4, 24), generator=generator)
    bank = Bank.open(
        folder / "bank", source, model, spec, model_hash(source), TokenWindows.of(ids, "calibration")
    )
    return Bench(source, spec, Assembler(model, spec, bank), ids)


def choice(
    bits: int, group_size: int | None = 32, symmetric: bool = True, sparsity: float = 0.0, a8: bool = False
) -> LayerChoice:
    pruned = Sparsity(fraction=sparsity, criterion="magnitude") if sparsity else None
    if bits == 16:
        return LayerChoice(sparsity=pruned)
    return LayerChoice(
        weight=integer_format(bits, group_size, symmetric),
        method="rtn",
        sparsity=pruned,
        activation=ActivationFormat() if a8 else None,
    )


def uniform(
    spec: ModelSpec, wanted: LayerChoice, pruned: PrunedShape = WHOLE, **outer: Any
) -> CompressionConfig:
    """The same choice at every layer inside the kept blocks."""
    layers = {x.name: wanted for x in spec.block_linears if pruned.keeps_block(x.block)}
    return CompressionConfig(layers={**layers, **outer.pop("layers", {})}, pruned=pruned, **outer)


def divergence(searched: torch.Tensor, found: torch.Tensor) -> float:
    """Mean KL a token of two sets of logits."""
    p, q = searched.double().log_softmax(dim=-1), found.double().log_softmax(dim=-1)
    return float((p.exp() * (p - q)).sum(dim=-1).mean())


@torch.inference_mode()
def assembled_logits(bench: Bench, config: CompressionConfig) -> torch.Tensor:
    return bench.assembler.apply(config)(input_ids=bench.ids, use_cache=False).logits.float()

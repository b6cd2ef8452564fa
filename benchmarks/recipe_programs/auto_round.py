"""``layer_config`` through ``AutoRound``; formats are read from the checkpoint that it packs.

Two steps of tuning a block: this is about formats, not about quality.
"""

from __future__ import annotations

import json

import torch
from auto_round import AutoRound  # type: ignore[import-not-found]
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from benchmarks.recipe_programs.job import Answer, Work, answer
from benchmarks.recipe_programs.packed_checkpoint import packed_formats


def run(work: Work) -> Answer:
    """Weights as they were learned and rounded, before they are packed."""
    learner = AutoRound(
        work.network(torch.bfloat16),
        tokenizer=AutoTokenizer.from_pretrained(work.job.model, local_files_only=True),
        layer_config=json.loads(work.recipe.read_text(encoding="utf-8")),
        scheme="W4A16",
        iters=2,
        dataset=DataLoader(work.samples(), batch_size=1),
        nsamples=len(work.calibration),
        seqlen=work.calibration.shape[1],
        batch_size=4,
        device_map="cpu",
        amp=False,
        enable_torch_compile=False,
        seed=0,
    )
    network, _ = learner.quantize()
    weights = {name: network.get_submodule(name).weight.detach().clone() for name in work.job.modules}
    saved = work.folder / "packed"
    learner.save_quantized(str(saved), format="auto_round")
    return packed_formats(saved, {name: tuple(weight.shape) for name, weight in weights.items()}), weights


if __name__ == "__main__":
    answer(run)

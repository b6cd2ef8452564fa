"""SignRound by its authors' ``auto-round``: rounding and ranges learned by signed gradient descent, block by block.

The library takes a data loader in place of a data set's name; ours gives the job's windows as they are, every position
attended to.
"""

from __future__ import annotations

import torch
from auto_round import AutoRound  # type: ignore[import-not-found]
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from benchmarks.peer_programs.job import Model, answer


def quantize(model: Model) -> None:
    """Learn and round in place."""
    job = model.job
    learner = AutoRound(
        model.network,
        tokenizer=AutoTokenizer.from_pretrained(job.model, local_files_only=True),
        bits=job.num_bits,
        group_size=job.group_size,
        sym=job.symmetric,
        data_type="int",
        iters=job.options.get("iterations", 200),
        dataset=DataLoader(model.samples(), batch_size=1),
        nsamples=len(model.calibration),
        seqlen=model.calibration.shape[1],
        device_map="cuda" if torch.cuda.is_available() else "cpu",
        amp=False,
        enable_torch_compile=False,  # compiling takes longer than a small model's tuning
        seed=0,
    )
    learner.quantize()


if __name__ == "__main__":
    answer(quantize)

"""``dynamic`` of ``quantize_config.json`` through ``GPTQModel``; formats are read from the checkpoint that it packs."""

from __future__ import annotations

import json
import os

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # it takes half of the cores, and fails where that is one

from gptqmodel import GPTQModel, QuantizeConfig  # type: ignore[import-not-found]

from benchmarks.recipe_programs.job import Answer, Work, answer
from benchmarks.recipe_programs.packed_checkpoint import packed_formats


def run(work: Work) -> Answer:
    """Weights as its modules expand them."""
    values = json.loads(work.recipe.read_text(encoding="utf-8"))
    model = GPTQModel.load(work.job.model, QuantizeConfig(**values), device="cpu")
    batches = [{key: row[None] for key, row in sample.items()} for sample in work.samples()]
    model.quantize(batches, batch_size=1)
    saved = work.folder / "packed"
    model.save(str(saved))
    dense = work.network()
    shapes = {name: tuple(dense.get_submodule(name).weight.shape) for name in work.job.modules}
    formats = packed_formats(saved, shapes)
    return formats, _weights(str(saved), work.job.modules)


def _weights(folder: str, names: tuple[str, ...]) -> dict[str, object]:
    from gptqmodel import BACKEND

    loaded = GPTQModel.load(folder, device="cpu", backend=BACKEND.TORCH).model
    found = {}
    for name in names:
        module = loaded.get_submodule(name)
        found[name] = module.dequantize_weight().T if hasattr(module, "qweight") else module.weight
    return found


if __name__ == "__main__":
    answer(run)

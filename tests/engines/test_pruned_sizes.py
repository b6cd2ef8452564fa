"""Every kind of cut, exported: a plain checkpoint that transformers loads, with the candidate's own logits."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from paretune.engines.checkpoint.writer import write_checkpoint
from paretune.engines.engine import ExportCard
from paretune.spaces.configuration import CompressionConfig, PrunedShape
from paretune.spaces.size import weight_bytes

CUTS = {
    "heads": PrunedShape(kv_heads=1),
    "channels": PrunedShape(ffn_channels=96),
    "blocks": PrunedShape(blocks=(0, 2)),
    "hidden": PrunedShape(hidden=96),
    "hidden of no power of two": PrunedShape(hidden=100),
    "everything": PrunedShape(blocks=(1, 2), kv_heads=1, ffn_channels=64, hidden=96),
}


def allowed(spec, pruned: PrunedShape) -> PrunedShape:
    """The part of a cut that the family's configuration can express."""
    return pruned.model_copy(update={cut.kind: None for cut in spec.uncuttable})


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "qwen3_moe"])
def test_an_export_is_the_cut_candidate(family, cut, bench, tmp_path):
    one = bench(family)
    config = CompressionConfig(pruned=allowed(one.spec, CUTS[cut]))
    with torch.inference_mode():
        expected = one.assembler.apply(config)(input_ids=one.ids, use_cache=False).logits
    folder = write_checkpoint(one.assembler, config, tmp_path / "out", ExportCard(one.folder, "candidate"))
    tensors = load_file(folder / "model.safetensors")
    assert sum(tensor.nbytes for tensor in tensors.values()) == weight_bytes(one.spec, config)
    values = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in values
    if config.pruned.hidden is not None:
        assert values["hidden_size"] == config.pruned.hidden
        assert values["head_dim"] == one.spec.head_dim
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        torch.testing.assert_close(model(input_ids=one.ids).logits, expected, rtol=1e-4, atol=1e-4)

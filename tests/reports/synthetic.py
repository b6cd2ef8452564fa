"""A run folder as a search would leave it: plausible numbers, no model, no evaluation.

``python -m tests.reports.synthetic FOLDER`` writes one to look at.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paretune.search.record_lines import sealed
from paretune.search.records import record_values
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice, Sparsity
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig, PrunedShape
from paretune.spaces.files import write_document
from paretune.spaces.formats import integer_format
from paretune.spaces.groups import fused_groups
from paretune.spaces.measurement import Fidelity, Measurement, Record
from paretune.spaces.model import ModelSpec
from paretune.spaces.result import Advantage, FrontFile, LatencyCheck, Member, Optimism, RunDocument, Uniform
from paretune.spaces.size import average_bits, memory_bytes, weight_bytes
from paretune.spaces.statistics import measure, numbered
from paretune.spaces.target import Workload
from tests.fakes import tiny_spec

WINDOWS = 128
TASKS = {"arithmetic": 0.31, "recall": 0.82, "agreement": 0.77, "retrieval": 0.91, "ordering": 0.64}
CHANCE = {"arithmetic": 0.1, "recall": 0.25, "agreement": 0.5, "retrieval": 0.1, "ordering": 0.5}
WORKLOAD = Workload(prompt_tokens=64, output_tokens=64)
PICKED = 6
DAMAGE = {2: 0.9, 3: 0.13, 4: 0.03, 5: 0.008, 6: 0.002, 8: 0.0003, 16: 0.0}


@dataclass
class Synthetic:
    """Makes members with a consistent KL: the sum of what its layers lose, times noise shared by window."""

    blocks: int = 6
    hidden: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 512
    vocabulary: int = 768
    seed: int = 0
    spec: ModelSpec = field(init=False)

    def __post_init__(self) -> None:
        self.spec = tiny_spec(
            blocks=self.blocks,
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            ffn=self.ffn,
            vocabulary=self.vocabulary,
            dtype="bfloat16",
        )
        self.groups = fused_groups(self.spec)
        self.rng = np.random.default_rng(self.seed)
        self.linear = [group for group in self.groups if group.block is not None]
        self.weight = self.rng.lognormal(0.0, 1.9, len(self.linear))
        self.weight /= self.weight.sum()
        self.shape = self.rng.lognormal(0.0, 0.35, WINDOWS)
        self.shape /= self.shape.mean()

    def config(
        self, widths: list[int], outer: int = 16, kv: int = 16, method: str = "hqq", **more: Any
    ) -> CompressionConfig:
        """A width for each group inside the blocks."""
        layers = {}
        for group, bits in zip(self.linear, widths, strict=True):
            layers.update(dict.fromkeys(group.layers, _choice(bits, method)))
        for group in self.groups:
            if group.block is None:
                layers.update(dict.fromkeys(group.layers, _choice(outer, "rtn")))
        cache = KVFormat.model_validate({"num_bits": kv})
        return CompressionConfig(layers=layers, kv=cache, **more)

    def kl(self, config: CompressionConfig) -> float:
        """Mean KL of a configuration."""
        total = 0.0 if config.kv.num_bits == 16 else 0.0002
        for group, share in zip(self.linear, self.weight, strict=True):
            if not config.keeps_block(group.block):
                total += 0.35 / self.blocks
                continue
            choice = config.choice(group.layers[0])
            rtn = 1.3 if choice.method == "rtn" else 1.0
            total += share * DAMAGE[choice.weight.num_bits] * rtn
            total += 0.25 * share if choice.sparsity else 0.0
        total += 0.4 * DAMAGE[config.choice(self.spec.embedding.name).weight.num_bits]
        return total + (0.3 if config.pruned.ffn_channels else 0.0)

    def member(
        self, name: str, config: CompressionConfig, kind: str, tasks: bool = True, **more: Any
    ) -> Member:
        """A row with everything that can be measured."""
        return Member.model_validate(
            {
                "digest": config.digest,
                "name": name,
                "kind": kind,
                "on_front": kind == "searched",
                "config": config,
                "measurements": self.measurements(config, tasks, measured=more.pop("measured", False)),
                **more,
            }
        )

    def measurements(self, config: CompressionConfig, tasks: bool, measured: bool) -> dict[str, Measurement]:
        kl = self.kl(config)
        windows = kl * self.shape * self.rng.lognormal(0.0, 0.06, WINDOWS)
        level = float(windows.mean())
        found = {
            "average_bits": _computed(average_bits(self.spec, config), "bit"),
            "weight_bytes": _computed(weight_bytes(self.spec, config), "B"),
            "memory_bytes": _computed(memory_bytes(self.spec, config, WORKLOAD), "B"),
            "kl": measure(windows, numbered(WINDOWS), unit="nat", by="kl/1"),
            "kl_p99": Measurement(value=9 * level, unit="nat", n=WINDOWS, by="kl/1"),
            "top1_agreement": Measurement(value=1 - 0.55 * level**0.5 / (1 + level), n=WINDOWS, by="kl/1"),
            "perplexity": Measurement(value=4.71 * float(np.exp(0.8 * level)), n=WINDOWS, by="perplexity/1"),
            "kl_search": Measurement(
                value=kl * float(self.rng.normal(0.96, 0.03)), unit="nat", n=64, by="kl/1"
            ),
            "ttft_s_predicted": _predicted(self._latency(config) * 5.1),
            "tpot_s_predicted": _predicted(self._latency(config)),
        }
        if measured:
            found["tpot_s"] = Measurement(
                value=self._latency(config) * float(self.rng.normal(1.02, 0.05)),
                unit="s",
                stderr=2e-5,
                n=9,
                by="torch-cpu",
            )
        return found | (self._tasks(level) if tasks else {})

    def _latency(self, config: CompressionConfig) -> float:
        size = weight_bytes(self.spec, config) / weight_bytes(self.spec, DENSE_CONFIG)
        return 0.0011 + 0.0013 * (0.55 + 0.45 * size) * (1 if config.keeps_block(1) else 0.85)

    def _tasks(self, kl: float) -> dict[str, Measurement]:
        found = {}
        for task, top in TASKS.items():
            sensitive = 1.6 if task == "arithmetic" else 0.7
            score = (
                CHANCE[task]
                + (top - CHANCE[task]) * float(np.exp(-sensitive * 2.2 * kl))
                + 0.012 * self.rng.normal()
            )
            score = float(np.clip(score, 0.0, 1.0))
            found[f"task.{task}"] = Measurement(
                value=score, stderr=(score * (1 - score) / 200) ** 0.5, n=200, by="lm-eval"
            )
        return found


def front_file(made: Synthetic) -> FrontFile:
    """Ten members, the dense row, six uniform rows, five probes."""
    members = _on_front([*_front(made), *_baselines(made), *_probes(made)])
    return FrontFile(
        objectives=("kl", "weight_bytes"),
        limits=("kl<=0.1",),
        reference_point={"kl": 1.0, "weight_bytes": float(weight_bytes(made.spec, DENSE_CONFIG))},
        hypervolume=0.8342,
        advantage=Advantage(metric="kl", cost="weight_bytes", ratio=2.1, low=1.2e6, high=3.8e6),
        optimism=Optimism(members=0.14, uniform=0.02, counted=9),
        recommended=sorted(
            (m for m in members if m.kind == "searched"), key=lambda m: -(m.value("weight_bytes") or 0.0)
        )[PICKED].name,
        recommended_reason="Largest gain over the best uniform row of its bytes among those that meet kl<=0.1.",
        members=tuple(members),
    )


def _on_front(members: list[Member]) -> list[Member]:
    """What nothing dominates in bytes and KL; only front members that are on it stay."""
    spots = {m.name: (m.value("weight_bytes") or 0.0, m.value("kl") or 0.0) for m in members}

    def beaten(name: str) -> bool:
        size, kl = spots[name]
        return any(s <= size and k <= kl and (s, k) != (size, kl) for s, k in spots.values())

    marked = [member.model_copy(update={"on_front": not beaten(member.name)}) for member in members]
    return [member for member in marked if member.on_front or member.kind != "searched"]


def _front(made: Synthetic) -> list[Member]:
    """What a Lagrangian picks: each group the width with the least damage plus price times bits."""
    rows = []
    prices = (2e-7, 4e-6, 2e-5, 8e-5, 2e-4, 4e-4, 7.5e-4, 1.6e-3, 4e-3, 1.2e-2)
    for number, price in enumerate(prices):
        widths = [
            min(DAMAGE, key=lambda bits, share=share: share * DAMAGE[bits] + price * bits)  # type: ignore[misc]
            for share in made.weight
        ]
        config = made.config(widths, outer=16 if number < 2 else 8, kv=8 if number > 2 else 16)
        name = f"mix-{average_bits(made.spec, config):.2f}"
        together = 5 if number in (5, 6) else 20 + number
        rows.append(
            made.member(name, config, "searched", measured=number % 2 == 0, equivalence_class=together)
        )
    # Two that no text of this length tells apart: the smaller one was lucky.
    twin = rows[5].measurements["kl"]
    windows = tuple(1.01 * value + 2e-5 * made.rng.normal() for value in twin.per_window or ())
    lucky = twin.model_copy(update={"value": sum(windows) / WINDOWS, "per_window": windows})
    rows[6] = rows[6].model_copy(update={"measurements": {**rows[6].measurements, "kl": lucky}})
    return rows


def _baselines(made: Synthetic) -> list[Member]:
    count = len(made.linear)
    dense = made.member("dense", DENSE_CONFIG, "dense", measured=True)
    values = dict(dense.measurements)
    values["kl"] = measure([0.0] * WINDOWS, numbered(WINDOWS), unit="nat", by="kl/1")
    values["kl_p99"] = Measurement(value=0.0, unit="nat", n=WINDOWS)
    values["top1_agreement"] = Measurement(value=1.0, n=WINDOWS)
    rows = [dense.model_copy(update={"measurements": values})]
    for bits in (8, 6, 5, 4, 3, 2):
        config = made.config([bits] * count, outer=8, kv=8)
        row = made.member(f"uniform-{bits}", config, "uniform", measured=bits in (8, 4))
        made_of = Uniform(bits=bits, method="rtn", embedding_bits=8, kv_bits=8, plain=True)
        rows.append(row.model_copy(update={"uniform": made_of}))
    return rows


def _probes(made: Synthetic) -> list[Member]:
    widths = [4] * len(made.linear)
    fewer = PrunedShape(blocks=tuple(range(1, made.blocks)))
    narrow = PrunedShape(ffn_channels=3 * made.ffn // 4)
    kept = [bits for bits, group in zip(widths, made.linear, strict=True) if bits and group.block is not None]
    sparse = made.config(kept, outer=8)
    zeros = Sparsity(fraction=0.5, pattern="2:4", criterion="wanda")
    pruned = sparse.replaced(
        layers={
            s: c.model_copy(update={"sparsity": zeros}) if "mlp" in s else c for s, c in sparse.layers.items()
        }
    )
    inside = {s: c for s, c in sparse.layers.items() if ".0." not in f"{s}."}
    return [
        made.member(
            "pruned-blocks5",
            CompressionConfig(layers=inside, pruned=fewer),
            "probe",
            tasks=False,
            note="A block is a sixth of the depth; untrained, it costs ten times a bit less.",
        ),
        made.member(
            "pruned-ffn384",
            made.config(widths, outer=8, pruned=narrow),
            "probe",
            tasks=False,
            note="The channels that are cut carry a tenth of the second moment of the FFN's output.",
        ),
        made.member(
            "sparse-50-2:4",
            pruned,
            "probe",
            tasks=False,
            note="torch-cpu multiplies zeros like other weights: the loss buys neither bytes nor time.",
        ),
    ]


def records(made: Synthetic, front: FrontFile, count: int = 220) -> list[Record]:
    """Baselines, marginals, probes and the sampler's candidates on the search text, then the promotion."""
    found: list[Record] = []

    def add(name: str, config: CompressionConfig, sampler: str, text: str, windows: int) -> None:
        fidelity = Fidelity(text=text, windows=windows, window_tokens=256)
        kl = made.kl(config) * float(made.rng.normal(0.97, 0.02))
        values = {"kl": Measurement(value=max(kl, 0.0), unit="nat", stderr=0.01 * kl, n=windows)}
        values["weight_bytes"] = _computed(weight_bytes(made.spec, config), "B")
        values["memory_bytes"] = _computed(memory_bytes(made.spec, config, WORKLOAD), "B")
        values["average_bits"] = _computed(average_bits(made.spec, config), "bit")
        values["tpot_s_predicted"] = _predicted(made._latency(config))
        tokens = fidelity.tokens
        found.append(
            Record(
                index=len(found),
                digest=config.digest,
                name=name,
                config=config,
                sampler=sampler,
                fidelity=fidelity,
                tokens=tokens,
                evaluations=tokens / 16_384,
                seconds=0.00021 * tokens,
                measurements=values,
            )
        )

    for member in front.members:
        if member.kind != "searched":
            add(member.name, member.config, "probe" if member.kind == "probe" else "baseline", "search", 64)
    for index in range(3 * len(made.linear)):
        widths = [16] * len(made.linear)
        widths[index % len(widths)] = (2, 3, 4)[index // len(widths)]
        add(f"marginal-{index}", made.config(widths), "marginal", "search", 4)
    for index in range(count):
        middle = made.rng.uniform(2.0, 7.0)
        near = np.array((2, 3, 4, 5, 6, 8))
        drawn = (
            middle + made.rng.normal(0, 1.0, len(made.linear)) + 0.6 * np.log(made.weight * len(made.linear))
        )
        widths = near[np.abs(near[None, :] - drawn[:, None]).argmin(axis=1)]
        add(f"paretune-{index}", made.config(widths.tolist(), outer=8), "paretune", "search", 8)
    for member in front.members:
        add(member.name, member.config, "promotion", "report", 64)
    return found


def run_document(
    made: Synthetic, front: FrontFile, lines: list[Record], source: str = "demo/model"
) -> RunDocument:
    """``run.json`` of that run."""
    checks = tuple(
        LatencyCheck(
            name=member.name,
            digest=member.digest,
            predicted_s=member.value("tpot_s_predicted") or 0.0,
            measured_s=(member.value("tpot_s_predicted") or 0.0) * float(made.rng.normal(1.03, 0.06)),
            note="2 and 3 bits run dense on torch-cpu." if member.name == "uniform-2" else "",
        )
        for number, member in enumerate(front.members)
        if number < 7 or member.name in ("dense", "uniform-4", "uniform-2")
    )
    by_sampler: dict[str, int] = {}
    for line in lines:
        by_sampler[line.sampler] = by_sampler.get(line.sampler, 0) + 1
    texts = {"calibration": 64, "search": 64, "report": WINDOWS}
    recommended = next(member for member in front.members if member.name == front.recommended)
    return RunDocument(
        status="complete",
        created="2026-11-23T12:40:11+00:00",
        model={
            "source": source,
            "architecture": "LlamaForCausalLM",
            "parameters": made.spec.parameters,
            "dtype": "bfloat16",
        },
        engine="torch-cpu",
        engine_version="2.13.0",
        numeric_path="torch-cpu/float32",
        device={"name": "x86-avx2", "label": "x86 CPU with AVX2, 2 cores", "kind": "cpu"},
        workload=WORKLOAD.model_dump(),
        settings={"search": {"sampler": "paretune", "minutes": 2.1}, "model": source},
        versions={
            "paretune": "0.1.0",
            "torch": "2.13.0",
            "transformers": "5.17.0",
            "optuna": "5.0.0",
            "lm_eval": "0.4.13",
        },
        hashes={"model": "4f" * 32, "bank": "a1" * 32, "text.search": "77" * 32, "text.report": "0c" * 32},
        seed=0,
        texts={
            name: {
                "path": f"demo/text/{name}.txt",
                "digest": f"{number:02x}" * 32,
                "windows": number,
                "window_tokens": 256,
            }
            for name, number in texts.items()
        },
        tasks={name: {"items": 200, "chance": CHANCE[name]} for name in TASKS},
        latency_checks=checks,
        spent={"start": 12.4, "bank": 8.1, "profile": 37.2, "search": 126.0, "tasks": 51.5, "export": 14.9},
        evaluations=sum(line.evaluations for line in lines),
        records=by_sampler,
        groups=made.groups,
        refused={
            "pruned.kv_heads=1": "one key-value head would leave two query heads without keys",
            **{
                f"{group.name}: int8-g128/rtn+a8-token": "torch-cpu does not quantize activations"
                for group in made.linear
            },
        },
        export={
            "name": recommended.name,
            "folder": f"runs/demo/export/{recommended.name}",
            "weight_bytes": recommended.value("weight_bytes"),
            "kl_to_candidate": 3.1e-7,
            "tolerance": 1e-5,
        },
        notes=(
            "Sparsity saves no bytes in the container, so sparse candidates were tried as probes only.",
            "Energy was not measured: this machine has no counter that may be read.",
        ),
    )


def write_run(folder: Path, source: str = "demo/model", **sizes: Any) -> Path:
    """Write ``front.json``, ``run.json`` and ``records.jsonl`` of a synthetic run into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Synthetic(**sizes)
    front = front_file(made)
    lines = records(made, front)
    run = run_document(made, front, lines, source)
    write_document(folder / "front.json", front)
    write_document(folder / "run.json", run)
    sealed_lines = "".join(f"{sealed(record_values(line))}\n" for line in lines)
    (folder / "records.jsonl").write_text(sealed_lines, encoding="ascii")
    return folder


def _choice(bits: int, method: str) -> LayerChoice:
    if bits == 16:
        return LayerChoice()
    return LayerChoice(weight=integer_format(bits, 128, symmetric=method != "hqq"), method=method)


def _computed(value: float, unit: str) -> Measurement:
    return Measurement(value=float(value), unit=unit, by="size/1")


def _predicted(value: float) -> Measurement:
    return Measurement(value=value, unit="s", source="predicted", by="torch-cpu table")


if __name__ == "__main__":
    print(write_run(Path(sys.argv[1])))

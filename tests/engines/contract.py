"""What every engine must do; a new one subclasses :class:`EngineContract` and names itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from paretune.engines import find_engine
from paretune.engines.engine import Engine, ExportCard
from paretune.engines.manifest import MANIFEST, check_files, read_manifest
from paretune.engines.operation import Operation
from paretune.engines.profiled_engine import Runtime
from paretune.engines.verification import verify_export
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, WHOLE, CompressionConfig, PrunedShape
from paretune.spaces.errors import EngineError, VerificationError
from paretune.spaces.formats import WeightFormat
from paretune.spaces.legality import Legality
from paretune.spaces.size import kept_linears, kept_shape, weight_bytes
from paretune.spaces.target import Workload
from tests.engines.conftest import assembled_logits, choice, divergence, running, uniform

WORKLOAD = Workload(batch=2, prompt_tokens=12, output_tokens=6)


def weights_of(folder: Path) -> Path:
    """The largest file of an export."""
    return max((file for file in folder.iterdir() if file.is_file()), key=lambda file: file.stat().st_size)


def flip(folder: Path, _: Path) -> None:
    content = bytearray(weights_of(folder).read_bytes())
    content[-100] ^= 1
    weights_of(folder).write_bytes(content)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "truncated": lambda folder, _: os.truncate(weights_of(folder), weights_of(folder).stat().st_size - 1),
    "flipped": flip,
    "absent": lambda folder, _: weights_of(folder).unlink(),
    "swapped": lambda folder, other: shutil.copyfile(weights_of(other), weights_of(folder)),
    "other-manifest": lambda folder, other: shutil.copyfile(other / MANIFEST, folder / MANIFEST),
    "added": lambda folder, other: shutil.copyfile(weights_of(other), folder / "more.bin"),
}
"""By name: what happens to an export, given another of the same bytes."""


class EngineContract:
    """Subclass, set ``name``, and what is below runs."""

    name: str
    device = "some-device"
    shares_layers = False
    """Whether it serves a model on several devices."""
    families = ("llama", "phi3", "qwen3_moe")
    """That are asked for their groups."""
    tolerance = 1e-5
    """Largest KL of an export to its candidate, in nats a token."""

    def bits(self) -> LayerChoice:
        """A choice of few bits that the engine exports."""
        return choice(4)

    def refused(self) -> LayerChoice:
        """A choice that no layer may have."""
        return choice(4, 48)

    @pytest.fixture
    def engine(self) -> Engine:
        return find_engine(self.name)

    @pytest.fixture
    def legality(self, engine: Engine) -> Legality:
        return engine.legality(self.device)

    def test_it_says_who_and_where_it_is(self, engine, legality):
        assert engine.name == legality.engine == self.name
        assert legality.device == self.device
        if engine.available():
            assert engine.version()
        else:
            assert len(engine.available().reason) > 10
        assert engine.numeric_path(self.device)

    # -- legality --------------------------------------------------------------------------------------------

    def test_groups_partition_the_layers(self, legality, bench):
        for family in self.families:
            spec = bench(family).spec
            layers = [layer for group in legality.groups(spec) for layer in group.layers]
            assert len(layers) == len(set(layers))
            tied = {spec.head.name} if spec.tied else set()
            assert set(layers) == {x.name for x in spec.linears} - tied

    def test_devices_that_share_a_layer_divide_its_heads_or_are_refused(self, engine, bench):
        spec, two = bench().spec, Workload(tensor_parallel=2)
        if not self.shares_layers:
            with pytest.raises(EngineError, match="tensor_parallel=2"):
                engine.legality_at(self.device, two)
            return
        assert engine.legality_at(self.device, two).pruned(spec, WHOLE)
        odd = Workload(tensor_parallel=spec.heads + 1)
        verdict = engine.legality_at(self.device, odd).pruned(spec, WHOLE)
        assert not verdict
        assert "divided" in verdict.reason

    def test_untouched_layers_are_always_legal(self, legality, bench):
        spec = bench().spec
        for group in legality.groups(spec):
            assert legality.choice(spec, group, LayerChoice(), WHOLE)

    def test_what_it_cannot_load_is_refused_with_a_reason(self, legality, bench):
        spec = bench().spec
        group = next(g for g in legality.groups(spec) if g.kind == "linear")
        verdict = legality.choice(spec, group, self.refused(), WHOLE)
        assert not verdict
        assert len(verdict.reason) > 10
        assert verdict.source

    @pytest.mark.engine
    def test_whole_exports_are_timed_one_sequence_at_a_time(self, bench, tmp_path):
        engine = find_engine(self.name)
        if not engine.times_exports:
            return
        running(self.name)
        one = bench("llama")
        folder = engine.export(one.assembler, DENSE_CONFIG, tmp_path / "export", ExportCard(one.folder))
        found = engine.time_export(folder, Workload(prompt_tokens=8, output_tokens=4), repetitions=2)
        assert len(found.ttft_s) == len(found.tpot_s) == 2
        assert min(*found.ttft_s, *found.tpot_s) > 0
        with pytest.raises(EngineError, match="a batch of 2"):
            engine.time_export(folder, WORKLOAD)

    # -- export ----------------------------------------------------------------------------------------------

    @pytest.mark.engine
    @pytest.mark.parametrize("pruned", [WHOLE, PrunedShape(blocks=(0, 2))], ids=lambda s: s.name)
    def test_an_export_loads_and_agrees(self, bench, tmp_path, pruned):
        engine = running(self.name)
        one = bench("llama")
        config = uniform(one.spec, self.bits(), pruned)
        assert engine.export_ruling(one.spec, config)
        folder = engine.export(one.assembler, config, tmp_path / "export", ExportCard(one.folder, "few"))
        check_files(folder)
        manifest = read_manifest(folder)
        assert manifest["digest"] == config.digest
        assert manifest["engine"] in (self.name, "transformers")
        assert manifest["weight_bytes"] == weight_bytes(engine.stored(one.spec), config)
        assert str(folder) in engine.launch_line(folder)
        found = engine.predictions(folder, one.ids)
        wanted = torch.log_softmax(assembled_logits(one, config), dim=-1)
        kl = torch.stack([found.divergence(index, wanted[index]) for index in range(len(wanted))])
        assert float(kl.mean()) < self.tolerance

    @pytest.mark.engine
    def test_a_damaged_export_never_reaches_the_engine(self, bench, tmp_path, monkeypatch):
        engine, one = running(self.name), bench("llama")
        config, other = (
            uniform(one.spec, self.bits(), PrunedShape(blocks=kept)) for kept in ((0, 1), (0, 2))
        )
        folder, foreign = (
            engine.export(one.assembler, found, tmp_path / found.digest, ExportCard(one.folder, "few"))
            for found in (config, other)
        )
        monkeypatch.setattr(type(engine), "predictions", lambda *_: pytest.fail("the engine was started"))
        with pytest.raises(pytest.fail.Exception, match="was started"):
            verify_export(engine, one.assembler, config, folder, one.ids)
        for name, damage in DAMAGES.items():
            damaged = shutil.copytree(folder, tmp_path / name)
            damage(damaged, foreign)
            with pytest.raises(VerificationError, match=f"{name}.*paretune.json|paretune.json.*{name}"):
                verify_export(engine, one.assembler, config, damaged, one.ids)

    def test_what_cannot_be_exported_is_refused_and_leaves_nothing(self, engine, bench, tmp_path):
        one = bench("gpt2")
        config = uniform(one.spec, self.refused())
        verdict = engine.export_ruling(one.spec, config)
        assert not verdict
        assert len(verdict.reason) > 10
        with pytest.raises(EngineError) as refusal:
            engine.export(one.assembler, config, tmp_path / "export", ExportCard(one.folder))
        assert verdict.reason in str(refusal.value)
        assert verdict.source in str(refusal.value)
        assert not list(tmp_path.iterdir())


class CheckpointContract(EngineContract):
    """Of engines that load compressed-tensors through ``transformers``."""

    @pytest.mark.parametrize(
        "wanted",
        [
            choice(4, 48),
            LayerChoice(weight=WeightFormat(num_bits=7, number_type="int", group_size=32), method="rtn"),
            LayerChoice(
                weight=WeightFormat(
                    num_bits=4, number_type="int", group_size=32, symmetric=False, zero_point="float"
                ),
                method="hqq",
            ),
        ],
        ids=["group that does not divide", "width that is not offered", "float zero point"],
    )
    def test_what_the_container_cannot_hold_is_refused_with_a_reason(self, legality, bench, wanted):
        spec = bench().spec
        group = next(g for g in legality.groups(spec) if g.kind == "linear")
        verdict = legality.choice(spec, group, wanted, WHOLE)
        assert not verdict
        assert len(verdict.reason) > 10
        assert verdict.source

    def test_groups_must_divide_the_row_of_the_cut_pruned(self, legality, bench):
        spec = bench().spec
        down = next(g for g in legality.groups(spec) if g.name == "blocks.0.down")
        assert legality.choice(spec, down, choice(4, 128), WHOLE)
        assert not legality.choice(spec, down, choice(4, 128), PrunedShape(ffn_channels=192))
        assert legality.choice(spec, down, choice(4, 64), PrunedShape(ffn_channels=192))

    def test_pruned_sizes_that_the_configuration_cannot_express_are_refused(self, legality, bench):
        assert legality.pruned(bench().spec, PrunedShape(kv_heads=1, ffn_channels=64, blocks=(0, 2)))
        verdict = legality.pruned(bench("gpt2").spec, PrunedShape(kv_heads=2))
        assert not verdict
        assert "head" in verdict.reason

    def test_what_the_loader_has_no_form_for_is_refused(self, engine, bench):
        verdict = engine.export_ruling(bench("gpt2").spec, uniform(bench("gpt2").spec, choice(4)))
        assert not verdict
        assert "Conv1D" in verdict.reason


class ProfiledContract(CheckpointContract):
    """Of engines whose operations are timed one by one."""

    runtime_tolerance = 1e-3
    """Largest KL of the runtime to the assembled candidate, in nats a token."""

    # -- operations ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "mixtral"])
    @pytest.mark.parametrize(
        "pruned", [WHOLE, PrunedShape(blocks=(0, 2), ffn_channels=128)], ids=lambda s: s.name
    )
    def test_operations_cover_every_linear_in_both_phases(self, engine, bench, family, pruned):
        spec = bench(family).spec
        config = CompressionConfig(pruned=pruned)
        found = engine.operations(spec, config, WORKLOAD)
        for phase in ("prefill", "decode"):
            work = sum(o.m * o.n * o.k * o.count for o in found if o.kind == "linear" and o.phase == phase)
            assert work == linear_work(spec, config, WORKLOAD, phase)
            blocks = spec.blocks if pruned.blocks is None else len(pruned.blocks)
            assert sum(o.count for o in found if o.kind == "attention" and o.phase == phase) == blocks
            assert sum(o.count for o in found if o.kind == "embedding" and o.phase == phase) == 1
        keys = [(o.phase, o.key) for o in found]
        assert len(keys) == len(set(keys)), "equal operations must be merged"

    def test_a_kernel_that_runs_dense_says_why(self, engine, bench):
        spec = bench().spec
        for bits in (3, 5):
            found = engine.operations(spec, uniform(spec, choice(bits)), WORKLOAD)
            blocks = [o for o in found if o.kind == "linear" and o.n != spec.vocabulary]
            assert blocks
            for operation in blocks:
                assert operation.kernel in ("fp32", "bf16")
                assert f"no kernel for {bits} bits: runs dense" in operation.note

    def test_every_operation_has_a_kernel_that_runs(self, engine, bench):
        spec = bench().spec
        configs = [
            uniform(spec, choice(bits), kv=KVFormat(num_bits=kv)) for bits, kv in ((4, 8), (8, 16), (16, 16))
        ]
        found = {o.key: o for c in configs for o in engine.operations(spec, c, WORKLOAD)}
        for operation in found.values():
            kernel = engine.kernel(operation, 1 << 16)
            kernel()
            kernel()

    def test_an_operation_of_another_engine_is_refused(self, engine):
        with pytest.raises(EngineError, match="kernel"):
            engine.kernel(Operation("linear", "decode", "marlin", 1, 16, 32), 1 << 16)

    def test_parallel_devices_are_refused_rather_than_ignored(self, engine, bench):
        with pytest.raises(EngineError, match="tensor_parallel"):
            engine.operations(bench().spec, DENSE_CONFIG, Workload(tensor_parallel=2))

    # -- running ---------------------------------------------------------------------------------------------

    def test_the_runtime_is_the_candidate(self, engine, bench):
        one = bench("llama")
        for config in candidates(one.spec):
            runtime = engine.runtime(one.assembler, config)
            assert isinstance(runtime, Runtime)
            found = runtime.logits(one.ids)
            assert divergence(assembled_logits(one, config), found) < self.runtime_tolerance, config.layers

    def test_generation_is_greedy_and_long_enough(self, engine, bench):
        one = bench("llama")
        runtime = engine.runtime(one.assembler, DENSE_CONFIG)
        found = runtime.generate(one.ids, 5)
        assert found.shape == (len(one.ids), one.ids.shape[1] + 5)
        assert torch.equal(found[:, : one.ids.shape[1]], one.ids)
        logits = runtime.logits(found[:, :-1])
        assert torch.equal(logits[:, -1].argmax(dim=-1), found[:, -1])

    def test_timing_is_positive_and_counts_repetitions(self, engine, bench):
        runtime = engine.runtime(bench().assembler, DENSE_CONFIG)
        timing = runtime.time(WORKLOAD, repetitions=3)
        assert timing.repetitions == 3
        assert timing.ttft_s > 0
        assert timing.tpot_s > 0

    def test_a_workload_beyond_the_context_is_refused(self, engine, bench):
        runtime = engine.runtime(bench().assembler, DENSE_CONFIG)
        with pytest.raises(EngineError, match="context"):
            runtime.time(Workload(prompt_tokens=200, output_tokens=100))


def candidates(spec):
    """One of each kind that every engine must run."""
    return [
        DENSE_CONFIG,
        uniform(spec, choice(4, 64)),
        uniform(spec, choice(8, 32, symmetric=False)),
        uniform(spec, choice(3, None)),
        uniform(spec, choice(16, sparsity=0.5), PrunedShape(blocks=(1, 2), kv_heads=1, ffn_channels=128)),
        CompressionConfig(kv=KVFormat(num_bits=8)),
        CompressionConfig(layers={spec.embedding.name: choice(8), spec.head.name: choice(4)}),
    ]


def linear_work(spec, config, workload, phase):
    """Multiply-adds of all linears, from the specification alone."""
    tokens = workload.batch * (workload.prompt_tokens if phase == "prefill" else 1)
    total = 0
    for linear in kept_linears(spec, config):
        n, k = kept_shape(spec, linear, config.pruned)
        if linear.role == "embedding":
            if spec.tied:
                total += workload.batch * n * k
        elif linear.role == "head":
            total += workload.batch * n * k
        elif linear.role.startswith("expert"):
            share = 1 - (1 - spec.active_experts / spec.experts) ** tokens
            hit = max(spec.active_experts, round(spec.experts * share))
            total += max(1, round(tokens * spec.active_experts / hit)) * hit * n * k
        else:
            total += tokens * n * k
    return total

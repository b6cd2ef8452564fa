"""A model that nobody searched, judged on the report text and tasks of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.compressors.arithmetic import Arithmetic
from paretune.compressors.dequantized import dense_folder
from paretune.compressors.divergence import Teacher
from paretune.compressors.loading import load_checkpoint, load_dense, load_tokenizer, model_hash
from paretune.compressors.windows import TokenWindows
from paretune.engines.llama_engine import LlamaCpp
from paretune.engines.manifest import MANIFEST, manifest_config, read_manifest
from paretune.evaluators.compared import Judge, read_dense
from paretune.evaluators.gguf_model import GgufModel
from paretune.evaluators.window_texts import window_texts
from paretune.pipeline.checkpoints import (
    Checkpoint,
    CheckpointFacts,
    memory_or_note,
    name_checkpoints,
    own_tokenizer,
    read_facts,
)
from paretune.pipeline.models import model_folder
from paretune.pipeline.progress import Stages
from paretune.pipeline.run_file import RunFile
from paretune.pipeline.texts import read_texts
from paretune.pipeline.workbench import compute_device
from paretune.reports.compared import FILE, ComparedFile, ComparedModel, compared_hashes
from paretune.reports.reading import RunFolder, read_compared, read_run_folder
from paretune.spaces.architectures import read_model
from paretune.spaces.errors import RunError
from paretune.spaces.files import write_document
from paretune.spaces.measurement import Measurement
from paretune.spaces.model import ModelSpec

if TYPE_CHECKING:
    from paretune.pipeline.run import Run


def compare_checkpoints(
    run: Run, sources: Sequence[str], labels: Sequence[str], stages: Stages
) -> tuple[ComparedModel, ...]:
    """Judge checkpoints on the report text and tasks of a run and draw them beside its front.

    Raises:
        ParetuneError: see :meth:`paretune.pipeline.run.Run.compare`.
    """
    chosen = name_checkpoints(sources, labels)
    with stages.stage("facts", "looking at the checkpoints"):
        facts = [read_facts(one) for one in chosen]
    court = _open(read_run_folder(run.folder), run.settings, dict(zip(chosen, facts, strict=True)), stages)
    rows = []
    for one, known in zip(chosen, facts, strict=True):
        with stages.stage("compare", f"judging {one.label}"):
            rows.append(court.judged(one, known))
            court.write(rows[-1])
    run.report()
    return tuple(rows)


@dataclass
class _Court:
    """What every checkpoint of one call is held against.

    Attributes:
        tokenizer: of the run.
        tokenizers: by label, of checkpoints with another; ``None`` for those with the same tokens.
        arithmetic, device: as the run had them.
    """

    folder: RunFolder
    run: RunFile
    spec: ModelSpec
    tokenizer: Any
    tokenizers: dict[str, Any | None]
    windows: TokenWindows
    arithmetic: Arithmetic
    device: str
    judge: Judge

    def judged(self, checkpoint: Checkpoint, facts: CheckpointFacts) -> ComparedModel:
        """Everything that can be measured of one checkpoint."""
        memory = memory_or_note(checkpoint, facts, self.run.workload)
        found = self._measured(checkpoint, facts)
        same = self.tokenizers[checkpoint.label] is None
        notes = _notes(checkpoint, same)
        if same and self._other_size(checkpoint, facts):
            notes.append(
                "another size than the run's model: its KL says that it answers otherwise, not that it is worse; "
                "tasks and bits per byte tell which is better"
            )
        found["weight_bytes"] = Measurement(value=float(facts.weight_bytes), unit="B", by="size")
        if isinstance(memory, str):
            notes = [*notes, memory]
        else:
            found["memory_bytes"] = memory
        return ComparedModel(
            label=checkpoint.label, source=checkpoint.source, hash=facts.hash, numbers=facts.numbers,
            loaded_by=facts.loaded_by, same_tokenizer=same, measurements=found, notes=tuple(notes),
        )  # fmt: skip

    def _other_size(self, checkpoint: Checkpoint, facts: CheckpointFacts) -> bool:
        """Whether it is no form of the run's model: other hidden channels or blocks, and no pruned model of ours."""
        own = (self.spec.hidden_size, self.spec.blocks)
        differs = any(said not in (None, known) for said, known in zip(facts.shape, own, strict=True))
        return differs and not (checkpoint.folder / MANIFEST).is_file()

    def write(self, row: ComparedModel) -> ComparedFile:
        """Put a row into ``compared.json``, which appears whole."""
        path, known = self.folder.path, read_compared(self.folder.path, self.folder.run)
        file = known or ComparedFile(
            hashes=compared_hashes(self.folder.run),
            predicted_tokens=self.windows.window_tokens - 1,
            window_bytes=self.judge.window_bytes,
        )
        file = file.with_model(row)
        write_document(path / FILE, file)
        return file

    def _measured(self, checkpoint: Checkpoint, facts: CheckpointFacts) -> dict[str, Measurement]:
        if checkpoint.gguf is not None:
            replay = GgufModel(LlamaCpp(), checkpoint.gguf, self.windows.ids, facts.rows, self.device)
            return self.judge.beside_dense(replay, facts.rows)
        model = load_checkpoint(checkpoint.folder, self.arithmetic.dtype, self.device)
        own = self.tokenizers[checkpoint.label]
        found = (
            self.judge.beside_dense(model, facts.rows)
            if own is None
            else self.judge.alone(model, own, facts.context)
        )
        # With the same tokens the run's own tokenizer is used: it may know an end of text that the other does not.
        return {**found, **self.judge.on_tasks(model, own or self.tokenizer)}


def _open(
    folder: RunFolder, run: RunFile, chosen: dict[Checkpoint, CheckpointFacts], stages: Stages
) -> _Court:
    """Load what the run was judged with; the dense model is read and let go.

    Raises:
        RunError: model or report text are not those of the run any more.
        ModelError: a checkpoint without a tokenizer; a GGUF file with other tokens.
    """
    with stages.stage("start", "loading model and texts"):
        source = model_folder(run.model, run.revision)
        spec = read_model(source, source=run.model, revision=run.revision)
        source = dense_folder(source, spec, folder.path)
        tokenizer = load_tokenizer(source)
        windows = read_texts(run.texts, tokenizer, spec, run.search.seed)["report"]
        _check_same(folder, {"model": model_hash(source), "text.report": windows.digest})
        texts = window_texts(tokenizer, windows.ids)
        others = {one.label: own_tokenizer(one, known, tokenizer, texts) for one, known in chosen.items()}
        theirs = {known.rows for one, known in chosen.items() if others[one.label] is None}
    device = compute_device(run)
    arithmetic = Arithmetic(folder.run.scoring["arithmetic"], folder.run.scoring["kl_floor"])
    with stages.stage("dense", "reading the dense model"):
        # Where nobody shares its tokenizer, nobody is compared with its predictions.
        teachers = _teachers(source, spec, windows, theirs, arithmetic, device) if theirs else {}
        judge = Judge(windows, tokenizer, texts, teachers, run.tasks.settings)
    return _Court(folder, run, spec, tokenizer, others, windows, arithmetic, device, judge)


def _teachers(
    source: Path,
    spec: ModelSpec,
    windows: TokenWindows,
    rows: set[int],
    arithmetic: Arithmetic,
    device: str,
) -> dict[int, Teacher]:
    """The dense model is read and let go: only its predictions stay in memory."""
    dense = load_dense(source, spec, arithmetic.dtype, device)
    return read_dense(dense, windows, spec.vocabulary, rows, tf32=arithmetic.tf32)


def _check_same(folder: RunFolder, hashes: dict[str, str]) -> None:
    for name, digest in hashes.items():
        if folder.run.hashes.get(name) != digest:
            raise RunError(
                f"{name} of run {folder.path}",
                "is another than when it was searched",
                "Put the files back that run.json names, or search again",
            )


def _notes(checkpoint: Checkpoint, same_tokenizer: bool) -> list[str]:
    """What of it is not measured, or not as the front was."""
    found = []
    if not same_tokenizer:
        found.append("another tokenizer: no KL and no perplexity, but bits per byte of the same text")
    if checkpoint.gguf is not None:
        found.append("no task scores: llama.cpp is asked for predictions of the report text alone")
    if (checkpoint.folder / MANIFEST).is_file():
        cache = manifest_config(read_manifest(checkpoint.folder), checkpoint.folder).kv
        if cache.num_bits != 16:
            found.append(f"read with a cache of 16 bits; it was searched with {cache.name}")
    return found

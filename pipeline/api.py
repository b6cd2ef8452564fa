"""Paretune in Python: one function per command, with its words; what each returns is what the command prints.

Importing this module loads neither torch nor transformers: what a function needs is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from paretune.pipeline.progress import Progress, Stages
from paretune.pipeline.run import Run
from paretune.pipeline.run_file import RunFile, settings_of
from paretune.pipeline.words import SearchWords, SpaceWords, spelled
from paretune.spaces.limits import Limit
from paretune.spaces.target import Workload

if TYPE_CHECKING:
    from paretune.pipeline.checking import Checked
    from paretune.pipeline.inspection import EngineRow, Inspection
    from paretune.pipeline.job import Outcome
    from paretune.pipeline.plan import Plan
    from paretune.pipeline.transforming import TransformResult
    from paretune.pipeline.verifying import Verified
    from paretune.profiles.advice import Advice


@spelled(SearchWords)
def search(
    model: str | Path | None = None, *, progress: Progress = True, **words: Unpack[SearchWords]
) -> Run:
    """Search per-layer formats and pruned sizes of a model; leave a front, a report and an export in a folder.

    Interrupted once (the stop button of a notebook), the search ends, and the front found so far is judged and written;
    called again with the same folder and words, it goes on.

    Args:
        model: folder, hub id, or ``embedded``; the embedded model if left out.
        progress: ``True``: a bar, or lines in a pipe; ``False``: nothing; a function is called with every
            :class:`~paretune.pipeline.progress.Step`.
        words: below.

    Returns:
        What the folder has: :attr:`Run.front`, :attr:`Run.recommended`, :meth:`Run.export`, :meth:`Run.report`.

    Raises:
        LimitError: nothing meets the limits.
        ParetuneError: whatever was refused; what failed after the search, once the front is written
            (``load_run(out)``).
    """
    done, folder = start_search(model, progress, words)
    if done.failure is not None:
        raise done.failure
    return Run(folder)


def start_search(model: str | Path | None, progress: Progress, words: SearchWords) -> tuple[Outcome, Path]:
    """Run :func:`search`; how it ended and its folder.

    Raises:
        ParetuneError: whatever was refused before there was a front.
    """
    settings, folder = _told(model, words)
    # After the words were read: a slip is refused before torch is loaded.
    from paretune.pipeline.job import run_job

    return run_job(settings, folder, progress), folder


@spelled(SearchWords)
def plan(model: str | Path | None = None, *, progress: Progress = True, **words: Unpack[SearchWords]) -> Plan:
    """What :func:`search` would take with these words: seconds by stage, disk and memory. Nothing is written.

    Args:
        model, progress: see :func:`search`.
        words: below.

    Raises:
        ParetuneError: whatever is refused before the bank.
    """
    settings, folder = _told(model, words)
    from paretune.pipeline.job import foresee

    return foresee(settings, folder, progress)


def _told(model: str | Path | None, words: SearchWords) -> tuple[RunFile, Path]:
    """Settings and run folder."""
    out = words.get("out")
    settings = _settings(model, {word: value for word, value in words.items() if word != "out"}, SearchWords)
    return settings, Path(out) if out else Path("runs") / _folder_name(settings.model)


def _settings(model: str | Path | None, words: Mapping[str, Any], known: type[SpaceWords]) -> RunFile:
    words_here = known.__annotations__
    if unknown := words.keys() - words_here.keys():
        raise TypeError(f"{min(unknown)!r} is none of the words here: {', '.join(words_here)}")
    given = {word: value for word, value in words.items() if word != "run_file"}
    run_file = words.get("run_file")
    return settings_of({"model": model, **given}, None if run_file is None else Path(run_file))


def load_run(folder: str | Path) -> Run:
    """A run that was searched before.

    Raises:
        RunError: no such folder, a file is missing, or is not what its schema says.
    """
    return Run(folder)


@spelled(SpaceWords)
def inspect(model: str | Path = "embedded", **words: Unpack[SpaceWords]) -> Inspection:
    """The space that :func:`search` would have with these words: groups, bytes, refusals, what it would say first.

    Args:
        model: folder, hub id, or ``embedded``.
        words: below.

    Raises:
        LimitError: no configuration meets a limit on bytes.
        ParetuneError: whatever is wrong with the model, the engine or the restrictions.
    """
    from paretune.pipeline.inspection import inspect_model

    return inspect_model(_settings(model, words, SpaceWords))


def list_engines() -> list[EngineRow]:
    """Every engine: found or not, where, at which version, and how to get it."""
    from paretune.pipeline.inspection import engine_rows

    return engine_rows()


def advise(
    model: str | Path = "embedded",
    *,
    device: str = "auto",
    workload: str | Workload = "batch=1,prompt=128,output=128",
    revision: str | None = None,
) -> Advice:
    """What binds (memory, bandwidth, arithmetic, launches) and what each format would give, from data sheets alone.

    Raises:
        UnknownNameError: no such device.
        ModelError: ``config.json`` cannot be read.
    """
    from paretune.pipeline.models import read_spec
    from paretune.profiles.advice import advise as compute
    from paretune.profiles.devices import detect_device, find_device

    asked = Workload.parse(workload) if isinstance(workload, str) else workload
    target = detect_device() if device == "auto" else find_device(device)
    return compute(read_spec(str(model), revision), target, asked)


def check(
    checkpoint: str | Path,
    *,
    base: str | Path,
    text: str | Path | None = None,
    windows: int = 64,
    window_tokens: int = 256,
    tasks: str | Path | None = None,
    task_names: Sequence[str] = (),
    task_limit: int | None = None,
    limits: Sequence[str] = (),
    p_value: float = 0.01,
    progress: Progress = True,
) -> Checked:
    """Whether a checkpoint is worse than the model it was made from.

    Args:
        checkpoint: model folder or hub id.
        base: the model that it was made from.
        text: both are read on; the embedded model brings its own.
        windows: that are read (count).
        window_tokens: of a window.
        tasks: folder of lm-eval tasks, which may run code of their own.
        task_names: all of the folder if left out.
        task_limit: items of each task (count).
        limits: such as ``kl<=0.05`` (nat) or ``top1_agreement>=0.9``.
        p_value: a task counts as worse below this p of a paired test.
        progress: see :func:`search`.

    Raises:
        ParetuneError: whatever cannot be compared.
    """
    from paretune.pipeline.checking import CheckRequest, check_checkpoint

    request = CheckRequest(
        str(checkpoint),
        str(base),
        _path(text),
        windows,
        window_tokens,
        _path(tasks),
        tuple(task_names),
        task_limit,
    )
    return check_checkpoint(request, [Limit.parse(one) for one in limits], p_value, Stages(progress))


def verify(
    export: str | Path,
    *,
    engine: str | None = None,
    run: str | Path | None = None,
    windows: int = 16,
    progress: Progress = True,
) -> Verified:
    """Check hashes of an export, load it in an engine, compare it with the searched candidate.

    Args:
        export: its folder.
        engine: that loads it; the one that it was written for if left out.
        run: folder that it comes from; the one it lies in if left out.
        windows: of the report text that are read (count).
        progress: see :func:`search`.

    Raises:
        VerificationError: it is another candidate, or its files are not those that were written.
        EngineUnavailableError: the engine is not here.
        RunError: it is no export, or of another run.
    """
    from paretune.pipeline.verifying import verify_folder

    return verify_folder(Path(export), engine, _path(run), windows, Stages(progress))


def transform(
    model: str | Path,
    *,
    out: str | Path,
    method: str,
    text: Sequence[str | Path] = (),
    windows: int = 64,
    window_tokens: int = 256,
    dtype: str | None = None,
    revision: str | None = None,
    progress: Progress = True,
) -> TransformResult:
    """Write the same model with its outliers spread, so that 8-bit inputs cost less.

    Args:
        model: folder, hub id, or ``embedded``.
        out: folder to write; absent or empty.
        method: smoothquant or hadamard.
        text: calibration text of the search to come, in one or more files.
        windows: measured on, and as many others compared on (count).
        window_tokens: of a window.
        dtype: of stored weights: float32, bfloat16 or float16; as they came if left out.
        revision: of a hub id.
        progress: see :func:`search`.

    Raises:
        ModelError: the model's structure does not allow it.
        VerificationError: the stored model is not the original; nothing is left.
    """
    from paretune.pipeline.transforming import TransformRequest, transform_folder

    request = TransformRequest(
        str(model),
        Path(out),
        method,
        tuple(Path(one) for one in text),
        windows,
        window_tokens,
        dtype,
        revision,
    )
    return transform_folder(request, Stages(progress))


def profile(
    model: str | Path = "embedded",
    *,
    engine: str = "torch-cpu",
    device: str = "auto",
    workload: str | Workload = "batch=1,prompt=64,output=64",
    seconds: float = 30.0,
    rounds: int = 5,
    out: str | Path | None = None,
    revision: str | None = None,
    progress: Progress = True,
) -> dict[str, Any]:
    """Time operations and whole models here: predicted beside measured latency, and a table of costs.

    Args:
        model: folder, hub id, or ``embedded``.
        engine: torch-cpu or torch.
        device: of this machine: ``auto``, ``cpu`` or ``gpu``.
        workload: as in :func:`search`.
        seconds: time box of the operations; whole models come on top.
        rounds: times that each whole model runs (count).
        out: table of costs (JSON); ``costs-ENGINE.json`` if left out. Rows in it are kept.
        revision: of a hub id.
        progress: see :func:`search`.

    Returns:
        What ``paretune profile --json`` prints; seconds and joules.
    """
    from paretune.pipeline.timing import TimeBudget, profile_model

    asked = Workload.parse(workload) if isinstance(workload, str) else workload
    place = _path(out) or Path(f"costs-{engine}.json")
    budget = TimeBudget(seconds, rounds)
    return profile_model(str(model), revision, engine, device, asked, budget, place, Stages(progress))


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _folder_name(model: str) -> str:
    """Of the run folder: the last word of a hub id, the name of a folder, ``.`` and ``..`` among them."""
    name = model.rstrip("/").rsplit("/", 1)[-1]
    return (Path(model).expanduser().resolve().name if name in {"", ".", "..", "~"} else name) or "model"

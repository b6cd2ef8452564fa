"""Processes of engines: silent, ended with all their children, and quoted by the line that says why they failed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

SILENT: dict[str, str] = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "DISABLE_TELEMETRY": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set in every process of an engine: no usage statistics, no request to a hub."""

_FAULT = re.compile(r"(?:^|[\s\]:])((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit)\b: .*)$")
_EMPTY_FAULT = re.compile(r"^((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception))$")
_WRAPPERS = ("Engine core initialization failed", "EngineDeadError", "Engine process failed")
_LINE = 400


def process_variables(*, foreign: bool, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables of an engine's process: those of :data:`ALLOWED` that we have, and no other, such as tokens of hubs.

    Args:
        foreign: whether another interpreter runs it: then our own search path is none of its business.
        extra: what the engine wants besides; does not override what keeps it silent.
    """
    named = {name: value for name, value in os.environ.items() if _ALLOWED.fullmatch(name)}
    kept = {name: value for name, value in named.items() if not (foreign and name in _OURS)}
    # A script's folder must not come before the packages: a file of ours there may be called like one of them.
    return {**kept, **(extra or {}), **SILENT, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
ALLOWED = (
    # where programs, libraries and their caches are
    "PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME",
    "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CC", "CXX", "TRITON_.*", "TORCH.*", "CUDA.*", "NVIDIA_.*",
    "NCCL_.*", "HIP_.*", "ROC.*",
    # words and time
    "LANG", "LC_.*", "TZ",
    # how much of the machine is used
    "OMP_.*", "MKL_.*", "KMP_.*", "GOMP_.*", "OPENBLAS_.*", "MALLOC_.*", "VLLM_(?!API_KEY).*", "GGML_.*", "OV_.*",
)  # fmt: skip
"""Names, as regular expressions, of the variables that an engine's process inherits."""
_ALLOWED = re.compile("|".join(ALLOWED))


_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("whoever asked for it is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Becomes a program that ends when the thread that started it does; 1 is ``PR_SET_PDEATHSIG``, which outlives ``exec``.

A process of its own and no ``preexec_fn``: that runs between fork and exec, where the locks of our other threads stay
locked for ever. Source: ``prctl(2)``.
"""


def run_silently(command: list[str], log: Path, variables: Mapping[str, str], timeout_s: float) -> int | None:
    """Run a program whose output goes to ``log``, in that file's folder; its children end with it.

    It ends with us, too: by whatever is raised here, and on Linux where we are killed.

    Returns:
        The exit code, negative where a signal ended it; ``None`` when time ran out.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            _tied(command),
            env=variables,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        _THREAD.started.append(process)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end_group(process)
            _THREAD.started.remove(process)


def run_together(work: Sequence[Callable[[], Result]], at_once: int) -> list[Result]:
    """Do ``work`` on at most ``at_once`` threads, or here where that is one; in its order.

    Whatever is raised meanwhile (by a thread, a signal, an interrupt) ends the programs that the threads wait for.
    """
    if at_once == 1 or len(work) == 1:
        return [one() for one in work]
    started: list[subprocess.Popen[bytes]] = []
    with ThreadPoolExecutor(at_once, initializer=partial(setattr, _THREAD, "started", started)) as threads:
        answers = [threads.submit(one) for one in work]
        try:
            done, _ = wait(answers, return_when=FIRST_EXCEPTION)
            for answer in done:
                answer.result()
            return [answer.result() for answer in answers]
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in tuple(started):
                _end_group(process)
            raise


class _Started(threading.local):
    """Programs that the thread waits for, or those of all threads that work together."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []


_THREAD = _Started()


def _tied(command: list[str]) -> list[str]:
    """The command as one that ends with us, where the system has a way."""
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever is left of the session that the process leads."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ended_by_others(code: int) -> bool:
    """Whether an exit code tells of a limit, a lack of memory or a person, and of no fault of the process."""
    return -code in _OF_OTHERS


_OF_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU)


def last_word(text: str, code: int = 1) -> str:
    """The line of a log that says best why a process failed: its last error, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    faults = [found.group(1) for line in lines if (found := _FAULT.search(line) or _EMPTY_FAULT.match(line))]
    causes = [fault for fault in faults if not any(wrapper in fault for wrapper in _WRAPPERS)]
    if causes or faults:
        return (causes or faults)[-1][:_LINE]
    if code < 0:
        return f"ended by signal {-code} ({signal.Signals(-code).name}; 9 is often a lack of memory)"
    return (lines or [f"exit code {code} without a word"])[-1][:_LINE]

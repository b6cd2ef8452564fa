"""The command line: one typer application, and the one place where errors become text and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import typer

from paretune.commands import (
    advise,
    check,
    compare,
    dashboard,
    engines,
    export,
    inspect,
    monitor,
    profile,
    recipe,
    report,
    search,
    select,
    transform,
    verify,
)
from paretune.commands.printing import print_error
from paretune.pipeline.models import is_model
from paretune.spaces.errors import ParetuneError, UnknownNameError

_DEFAULT = "search"
_INTERRUPTED = 130
_CODES = (
    "Exit codes: 0 all is well; 1 a check, a verification or a watched limit failed; 2 something was refused, a typo "
    "among it; 3 nothing meets the limits; 130 interrupted; 128 and its number where another signal ended it."
)
_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals by which others end a job: a time limit, a service manager, a terminal that closes."""

app = typer.Typer(
    name="paretune",
    help=(
        "Find the compression configurations of a language model that no other one tried can beat on a device.\n\n"
        "Without a command, `paretune MODEL` searches; without a model, it searches the embedded one."
    ),
    epilog=_CODES,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command, summary in (
    (search.search, "Search; leave a front, a report and an export."),
    (select.select, "The best member of a run under other limits."),
    (report.report, "Write the table and the page of a run anew."),
    (export.export, "Write a member for its engine, load it, compare it."),
    (profile.profile, "Time an engine here: predicted beside measured."),
    (inspect.inspect, "What a search could choose from, and what is refused."),
    (advise.advise, "What binds and what would help, from config.json alone."),
    (check.check, "Is a checkpoint worse than its base? For CI."),
    (transform.transform, "Spread a model's outliers before a search."),
    (verify.verify, "Is an export, here, the candidate it was made from?"),
    (compare.compare, "Draw another checkpoint beside the front of a run."),
    (engines.engines, "Which engines are here, and how to get the others."),
    (recipe.recipe, "A member's formats in the words of another tool."),
    (monitor.monitor, "Is what is served still what was exported?"),
    (dashboard.dashboard, "Look at the trials of a run in Optuna's dashboard."),
):
    app.command(command.__name__, short_help=summary)(command)

COMMANDS = tuple(command.name or "" for command in app.registered_commands)
_OWN_OPTIONS = ("--help", "--version", "--threads", "--install-completion", "--show-completion")


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("paretune"))
        raise typer.Exit


@app.callback()
def _options(
    threads: int = typer.Option(
        0,
        "--threads",
        metavar="N",
        min=0,
        help="CPU threads for matrix work; 0 uses all cores that this process may use.",
    ),
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_say_version, help="Print the version and exit."
    ),
) -> None:
    del version
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        An exit code, as ``--help`` explains them.

    Raises:
        SystemExit: 128 and the signal's number, where a signal ended it.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _ended_by_signals():
            outcome = app(args=with_default_command(given), prog_name="paretune", standalone_mode=False)
    except ParetuneError as error:
        print_error(error)
        return error.exit_code
    except typer.Exit as leave:
        return leave.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception as error:  # noqa: BLE001 -- shown if it is a usage error, raised again if not
        return _usage_error(error)
    if outcome == _INTERRUPTED:  # typer returns it for an interrupt, and a search that was stopped does
        return _interrupted()
    return outcome if isinstance(outcome, int) else 0


def _interrupted() -> int:
    """Say so."""
    print("\ninterrupted", file=sys.stderr)
    return _INTERRUPTED


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP unwind the stack: processes of engines are ended and scratch folders removed on the way.

    A handler that somebody else set stays, and so does a signal that is ignored (``nohup``).
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's affair
        yield
        return
    taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _leave(number: int, _frame: FrameType | None) -> None:
    # Once is enough: ``timeout`` sends it to us and to our group, and what is being ended must not be left halfway.
    for other in _ENDING:
        if signal.getsignal(other) is _leave:
            signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def with_default_command(arguments: list[str]) -> list[str]:
    """``paretune MODEL ...`` and plain ``paretune`` mean ``paretune search ...``.

    Raises:
        UnknownNameError: the first word is no command, no option and no model.
    """
    if not arguments:
        return [_DEFAULT]
    first = arguments[0]
    if first in COMMANDS or first.partition("=")[0] in _OWN_OPTIONS:
        return arguments
    if not first.startswith("-") and not is_model(first):
        raise UnknownNameError("command", first, COMMANDS, "or a model (a folder, OWNER/NAME or 'embedded')")
    return [_DEFAULT, *arguments]


def _usage_error(error: Exception) -> int:
    """Typer's own complaints carry an exit code and know how to show themselves; the rest is ours to fix."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    return int(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    raise SystemExit(main())

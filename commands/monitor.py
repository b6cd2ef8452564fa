"""``paretune monitor LADDER``: watch what a server answers, and fall back when it is no longer what was exported."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from paretune.monitoring.ladder import Ladder
    from paretune.monitoring.limits import Watched
    from paretune.monitoring.switching import Switcher
    from paretune.monitoring.watch import Outcome, Watch

Word = TypeVar("Word", bound=str)

_PACKAGES = ("fastapi", "uvicorn", "httpx", "prometheus_client")


def monitor(
    export: Annotated[
        Path, typer.Argument(help="Ladder that `paretune export --ladder` wrote, or an export.")
    ],
    endpoint: Annotated[str, typer.Option(help="Server of completions, e.g. http://127.0.0.1:8080.")],
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between checks.")] = 60.0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 9477,
    expose: Annotated[bool, typer.Option("--expose", help="Let --host be reached from elsewhere.")] = False,
    limit_drift: Annotated[
        float | None, typer.Option(min=0, help="Largest drift (nat); default: the rung's own.")
    ] = None,
    limit_latency: Annotated[float | None, typer.Option(min=0, help="Longest answer (s).")] = None,
    limit_memory: Annotated[float | None, typer.Option(min=0, help="Most RAM of --pid (bytes).")] = None,
    limit_unanswered: Annotated[
        bool, typer.Option("--limit-unanswered", help="Fall back where nobody answers, too.")
    ] = False,
    in_a_row: Annotated[
        int | None, typer.Option(min=1, help="Checks that have to break a limit; default: the rung's own.")
    ] = None,
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds that a restart after a switch may take.")
    ] = 300.0,
    token_file: Annotated[
        Path | None, typer.Option(help="Token that POST /check and /switch want; without it they refuse.")
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(
            help="Address that is told of a switch once the link has moved; refusing, it goes back."
        ),
    ] = None,
    symlink: Annotated[
        Path | None, typer.Option(help="Link to the rung that is on; LADDER/current if left out.")
    ] = None,
    no_switch: Annotated[bool, typer.Option("--no-switch", help="Report only.")] = False,
    no_files: Annotated[
        bool, typer.Option("--no-files", help="Do not hold files of the export against their hashes.")
    ] = False,
    protocol: Annotated[
        str, typer.Option(help="openai (/v1/completions) or llama.cpp (/completion).")
    ] = "openai",
    prompts: Annotated[str, typer.Option(help="Send prefixes as token ids or as text: ids, text.")] = "ids",
    model: Annotated[
        str | None, typer.Option(help="Model to ask for; the first that the server lists.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="Key that the endpoint wants.")] = None,
    pid: Annotated[
        str | None, typer.Option(help="Process of the server, or a file that holds its id.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="One check, printed; exit code 1 where a limit is broken.")
    ] = False,
) -> int:
    """Replay canaries against a server; metrics for Prometheus; switch to the next rung when a limit stays broken."""
    from paretune.monitoring.access import TOKEN_CHARACTERS, check_host, read_secret
    from paretune.monitoring.endpoint import Endpoint
    from paretune.monitoring.files import FileGuard
    from paretune.monitoring.memory import read_process
    from paretune.monitoring.watch import Watch

    require_packages()
    check_host(host, exposed=expose)
    limits = asked_limits(
        limit_drift, limit_latency, limit_memory, limit_unanswered, of_process=pid is not None
    )
    token = None if token_file is None else read_secret(token_file, TOKEN_CHARACTERS)
    ladder, switcher = open_ladder(export, symlink, webhook, report_only=no_switch or once)
    client = Endpoint(
        endpoint,
        protocol=one_of("protocol", protocol, ("openai", "llama.cpp")),
        prompts=one_of("prompts", prompts, ("ids", "text")),
        model=model,
        key=None if key_file is None else read_secret(key_file),
    )
    watch = Watch(
        ladder,
        client,
        switcher,
        limits=limits,
        in_a_row=in_a_row,
        pid=None if pid is None else read_process(pid),
        files=None if no_files else FileGuard(),
        settle_s=settle,
    )
    with closing(client):
        return check_once(watch) if once else keep_watch(watch, interval, host, port, token)


def require_packages() -> None:
    """Refuse where the service's packages are not installed.

    Raises:
        MonitorError: names those that are missing.
    """
    from importlib.util import find_spec

    from paretune.monitoring.errors import MonitorError

    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise MonitorError(
            "paretune monitor", f"needs {', '.join(missing)}", "pip install 'paretune[monitor]'"
        )


def open_ladder(
    folder: Path, link: Path | None, webhook: str | None, *, report_only: bool
) -> tuple[Ladder, Switcher | None]:
    """The ladder and what moves its link; nothing moves that of an export alone.

    Raises:
        MonitorError: there is no ladder, or it is asked to be switched and cannot be.
    """
    from paretune.monitoring.errors import MonitorError
    from paretune.monitoring.ladder import read_ladder
    from paretune.monitoring.switching import Switcher

    ladder = read_ladder(folder, link)
    if report_only and webhook is not None:
        raise MonitorError("--webhook", "is told of switches, and none is made here", "Leave one of them out")
    if report_only and link is not None and ladder.link is None:
        raise MonitorError("--symlink", "says which rung is on, and an export alone is none", "Leave it out")
    alone = ladder.link is None and link is None and webhook is None
    if report_only or alone:
        return ladder, None
    switcher = Switcher(ladder, webhook)
    switcher.begin()
    return ladder, switcher


def one_of(option: str, given: str, known: tuple[Word, ...]) -> Word:
    """The word given, as one of those that are known.

    Raises:
        UnknownNameError: it is none of them.
    """
    from paretune.spaces.errors import UnknownNameError

    for word in known:
        if given == word:
            return word
    raise UnknownNameError(f"value of --{option}", given, known)


def asked_limits(
    drift: float | None, latency: float | None, memory: float | None, unanswered: bool, *, of_process: bool
) -> dict[Watched, float]:
    """Limits by metric, of the options that were given.

    Raises:
        MonitorError: one is no finite number, or is of a process and none was named.
    """
    from math import isfinite

    from paretune.monitoring.errors import MonitorError

    if memory is not None and not of_process:
        raise MonitorError(
            "--limit-memory", "is of a process, and none is named", "Name the server's by --pid"
        )
    given: tuple[tuple[Watched, str, float | None], ...] = (
        ("drift_nats", "--limit-drift", drift),
        ("latency_s", "--limit-latency", latency),
        ("memory_bytes", "--limit-memory", memory),
        ("unanswered", "--limit-unanswered", 0.0 if unanswered else None),
    )
    found: dict[Watched, float] = {}
    for metric, option, value in given:
        if value is None:
            continue
        if not isfinite(value):  # which the command line takes for a number
            raise MonitorError(f"{option} {value}", "must be a finite number", "Name one, or leave it out")
        found[metric] = value
    return found


def check_once(watch: Watch) -> int:
    """Print one check; 1 where a limit is broken.

    Raises:
        EndpointError: the endpoint could not be asked, and nobody set a limit that this breaks.
    """
    from paretune.monitoring.errors import EndpointError

    outcome = watch.check()
    if outcome.reading.unanswered and not outcome.broken:
        raise EndpointError("the check", outcome.reading.reason, "Start the server and ask again")
    print(outcome_line(watch, outcome))
    return 1 if outcome.broken else 0


def outcome_line(watch: Watch, outcome: Outcome) -> str:
    """One line for people."""
    reading, name = outcome.reading, watch.ladder.rungs[outcome.rung].name
    if reading.drift_nats is None:
        parts = [f"{name}: no answer"]
    else:
        parts = [f"{name}: drift {reading.drift_nats:.2g} nat over {reading.canaries} canaries"]
    if reading.latency_s is not None:
        parts.append(f"{reading.latency_s * 1e3:.1f} ms an answer")
    if reading.memory_bytes is not None:
        parts.append(f"{reading.memory_bytes / 2**20:.0f} MiB")
    broken = ", ".join(f"{limit.metric} above {limit.limit:.4g}" for limit in outcome.broken)
    parts.append(f"broken: {broken}" if broken else "healthy")
    return "; ".join([*parts, *([reading.reason] if reading.reason else [])])


def keep_watch(watch: Watch, interval_s: float, host: str, port: int, token: str | None) -> int:
    """Serve until interrupted.

    Raises:
        MonitorError: the address is taken.
    """
    from paretune.monitoring.listening import listen, web_server
    from paretune.monitoring.service import Monitor, create_app
    from paretune.pipeline.output import note

    with listen(host, port) as socket:
        taken = socket.getsockname()
        name = f"[{taken[0]}]" if ":" in taken[0] else host
        note(f"watching {watch.endpoint.url}; metrics on http://{name}:{taken[1]}/metrics")
        web_server(create_app(Monitor(watch, interval_s), token)).run(sockets=[socket])
    return 0

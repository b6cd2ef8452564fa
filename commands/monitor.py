"""``paretune monitor LADDER``: watch what a server answers, and fall back when it is no longer what was exported."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paretune.commands import options as opt
from paretune.commands.printing import print_json

if TYPE_CHECKING:
    from paretune.monitoring.ladder import Ladder
    from paretune.monitoring.switching import Switcher
    from paretune.monitoring.watch import Outcome, Watch

_PACKAGES = ("fastapi", "uvicorn", "httpx", "prometheus_client")


class Protocol(StrEnum):
    """How a server is asked."""

    OPENAI = "openai"
    LLAMA = "llama.cpp"


class Prompts(StrEnum):
    """As what prefixes are sent."""

    IDS = "ids"
    TEXT = "text"


def monitor(
    export: Annotated[
        Path,
        typer.Argument(metavar="LADDER", help="Ladder that `paretune export --ladder` wrote, or an export."),
    ],
    endpoint: Annotated[
        str, typer.Option(metavar="URL", help="Server of completions, e.g. http://127.0.0.1:8080.")
    ],
    interval: Annotated[
        str, typer.Option(metavar="DURATION", help="Time between checks: 500ms, 60s, 5min.")
    ] = "60s",
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port to listen on.")] = 9477,
    expose: Annotated[bool, typer.Option("--expose", help="Let --host be reached from elsewhere.")] = False,
    limits: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="METRIC<=NUMBER[UNIT]",
            help="Bound: drift<=0.1 (nat; default: the rung's own), latency<=2s (of an answer), memory<=20GiB (RAM of "
            "--pid), unanswered<=0 (fall back where nobody answers, too); repeat for more.",
        ),
    ] = None,
    in_a_row: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Checks (count) that have to break a limit; default: the rung's own."
        ),
    ] = None,
    settle: Annotated[
        str, typer.Option(metavar="DURATION", help="Time that a restart after a switch may take: 300s, 5min.")
    ] = "300s",
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Token that POST /check and /switch want; without it they refuse."),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address that is told of a switch once the link has moved; refusing, it goes back.",
        ),
    ] = None,
    symlink: Annotated[
        Path | None,
        typer.Option(metavar="LINK", help="Link to the rung that is on; LADDER/current if left out."),
    ] = None,
    no_switch: Annotated[bool, typer.Option("--no-switch", help="Report only.")] = False,
    no_files: Annotated[
        bool, typer.Option("--no-files", help="Do not hold files of the export against their hashes.")
    ] = False,
    protocol: Annotated[
        Protocol, typer.Option(help="Of the server: /v1/completions (openai) or /completion (llama.cpp).")
    ] = Protocol.OPENAI,
    prompts: Annotated[Prompts, typer.Option(help="Send prefixes as token ids or as text.")] = Prompts.IDS,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model to ask for; the first that the server lists.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Key that the endpoint wants.")
    ] = None,
    pid: Annotated[
        str | None,
        typer.Option(metavar="PID|FILE", help="Process of the server, or a file that holds its id."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="One check, printed; exit code 1 where a limit is broken.")
    ] = False,
    json: opt.Json = False,
) -> int:
    """Replay canaries against a server; metrics for Prometheus; switch to the next rung when a limit stays broken."""
    require_packages()
    from paretune.monitoring.access import TOKEN_CHARACTERS, check_host, read_secret
    from paretune.monitoring.endpoint import Endpoint
    from paretune.monitoring.files import FileGuard
    from paretune.monitoring.limits import parse_limits
    from paretune.monitoring.memory import read_process
    from paretune.monitoring.watch import Watch

    check_host(host, exposed=expose)
    bounds = parse_limits(limits or (), of_process=pid is not None)
    interval_s, settle_s = opt.seconds_of("--interval", interval), opt.seconds_of("--settle", settle)
    token = None if token_file is None else read_secret(token_file, TOKEN_CHARACTERS)
    ladder, switcher = open_ladder(export, symlink, webhook, report_only=no_switch or once)
    client = Endpoint(
        endpoint,
        protocol=protocol.value,
        prompts=prompts.value,
        model=model,
        key=None if key_file is None else read_secret(key_file),
    )
    watch = Watch(
        ladder,
        client,
        switcher,
        limits=bounds,
        in_a_row=in_a_row,
        pid=None if pid is None else read_process(pid),
        files=None if no_files else FileGuard(),
        settle_s=settle_s,
    )
    with closing(client):
        return check_once(watch, as_json=json) if once else keep_watch(watch, interval_s, host, port, token)


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


def check_once(watch: Watch, *, as_json: bool = False) -> int:
    """Print one check; 1 where a limit is broken.

    Raises:
        EndpointError: the endpoint could not be asked, and nobody set a limit that this breaks.
    """
    from paretune.monitoring.errors import EndpointError

    outcome = watch.check()
    if outcome.reading.unanswered and not outcome.broken:
        raise EndpointError("the check", outcome.reading.reason, "Start the server and ask again")
    if as_json:
        print_json(outcome_document(watch, outcome))
    else:
        print(outcome_line(watch, outcome))
    return 1 if outcome.broken else 0


def outcome_document(watch: Watch, outcome: Outcome) -> dict[str, Any]:
    """The same as JSON: nats, seconds, bytes."""
    broken = [{"metric": limit.metric, "limit": limit.limit} for limit in outcome.broken]
    name = watch.ladder.rungs[outcome.rung].name
    return {
        "rung": outcome.rung,
        "name": name,
        "broken": broken,
        **asdict(outcome.reading),
        "unix_s": outcome.unix_s,
    }


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
    from paretune.pipeline.progress import note

    with listen(host, port) as socket:
        taken = socket.getsockname()
        name = f"[{taken[0]}]" if ":" in taken[0] else host
        note(f"watching {watch.endpoint.url}; metrics on http://{name}:{taken[1]}/metrics")
        web_server(create_app(Monitor(watch, interval_s), token)).run(sockets=[socket])
    return 0

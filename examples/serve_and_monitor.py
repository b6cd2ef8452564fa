"""From a search to a watched server, on the embedded model: ``python examples/serve_and_monitor.py --out FOLDER``.

Searches for llama.cpp, exports two rungs of the front as GGUF, serves the first by llama.cpp's own server, asks it
something, lets ``paretune monitor`` check it three times; then damages the file that is served and shows the monitor
falling back to the next rung. Needs ``pip install 'paretune[llama,monitor]'``; about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARETUNE = (sys.executable, "-m", "paretune.commands.main")
SERVER = (sys.executable, "-m", "paretune.engines.llama.server")
READY = "listening on "
FILE = "model.gguf"
PROMPT, ANSWER = "pairs si fa, bi pu, mi fi, to ro, ba ki, ge fu, ku su, no de. ask no", " de"
CHECKS = 3
WAIT_S = 60.0
DAMAGED_BYTES = 4096


def main() -> int:
    """Do all of it; 0 where the server answered and the damage was noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--minutes", type=float, default=0.5, help="bound on the search (minutes)")
    asked = parser.parse_args()
    run, ladder = asked.out, asked.out / "ladder"
    paretune(
        "search", "--engine", "llama.cpp", "--out", str(run), "--minutes", str(asked.minutes), "--no-export",
        "--task", "demo_retrieval", "--task-limit", "20",
    )  # fmt: skip
    paretune("export", str(run), "--ladder", "2")
    with server(ladder) as url:
        print(f"asked {PROMPT!r}, the server says {complete(url, PROMPT)!r}; {ANSWER!r} is right")
        for _ in range(CHECKS):
            paretune("monitor", str(ladder), "--endpoint", url, "--once")
    damage(ladder / "current" / FILE)
    with server(ladder) as url:
        print("damaged the file that is served; watching")
        before, after = watch_until_switched(ladder, url)
    print(f"the monitor moved {ladder / 'current'} from {before} to {after}")
    with server(ladder) as url:
        print(f"the next rung says {complete(url, PROMPT)!r}")
        paretune("monitor", str(ladder), "--endpoint", url, "--once")
    return 0


def paretune(*words: str) -> None:
    """Run the command line, shown as one would type it."""
    print("$ paretune", *words, flush=True)
    subprocess.run([*PARETUNE, *words], check=True)


@contextmanager
def server(ladder: Path) -> Iterator[str]:
    """Llama.cpp's server over the rung that is on; its address."""
    command = [*SERVER, str(ladder / "current" / FILE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith(READY):
                raise SystemExit(f"the server did not start: {line or 'it said nothing'}")
            yield line.removeprefix(READY).strip()
        finally:
            process.terminate()


def complete(url: str, prompt: str) -> str:
    """One greedy completion, as any client of OpenAI's interface asks for it."""
    body = json.dumps({"prompt": prompt, "max_tokens": 2, "temperature": 0}).encode()
    request = urllib.request.Request(  # noqa: S310 -- the address is this machine's
        f"{url}/v1/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:  # noqa: S310
        return str(json.load(answer)["choices"][0]["text"])


def damage(file: Path) -> None:
    """Flip bytes in the last quarter of the file, where the last layers lie."""
    raw = bytearray(file.read_bytes())
    start = len(raw) - len(raw) // 4
    for place in range(start, start + DAMAGED_BYTES):
        raw[place] ^= 0xFF
    file.write_bytes(raw)


def watch_until_switched(ladder: Path, url: str) -> tuple[str, str]:
    """Run the monitor until it has moved the link; the rungs before and after.

    It is told not to read files, so that what it notices is what the server answers.
    """
    before = (ladder / "current").readlink().name
    words = ("monitor", str(ladder), "--endpoint", url, "--interval", "500ms", "--port", "0", "--no-files")
    print("$ paretune", *words, flush=True)
    with subprocess.Popen([*PARETUNE, *words]) as process:
        until = time.monotonic() + WAIT_S
        while (ladder / "current").readlink().name == before:
            if time.monotonic() > until or process.poll() is not None:
                process.terminate()
                raise SystemExit("the monitor did not notice")
            time.sleep(0.2)
        process.terminate()
    return before, (ladder / "current").readlink().name


if __name__ == "__main__":
    raise SystemExit(main())

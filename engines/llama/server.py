"""Llama.cpp's own HTTP server over a GGUF file: ``python -m`` this module ``FILE [--port P] [--threads N]``.

It is the server inside ``xllamacpp``, for machines without the program ``llama-server``. The file stands alone and
needs ``xllamacpp`` only. It listens on the loopback interface, says where on one line of standard output once the
model is loaded, and serves until it is interrupted or terminated. What the server offers beyond completions (pages,
the contents of its slots, downloads, other models) is switched off.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
READY = "listening on "
"""Begins the line that names the address."""

_ERRORS_ONLY = 1
_CONTEXT_TOKENS = 2048
_CLOSED: dict[str, Any] = {
    "offline": True,
    "ui": False,
    "ui_mcp_proxy": False,
    "endpoint_slots": False,
    "endpoint_props": False,
    "models_autoload": False,
    "server_tools": [],
    "cors_origins": "",
}
"""Fields of llama.cpp's ``common_params`` that open more than completions."""


def parameters(file: Path, port: int, threads: int, context_tokens: int, cache_type: str = "f16") -> Any:
    """``xllamacpp.CommonParams`` of a server over one file.

    Args:
        file: GGUF.
        port: 0: any that is free.
        threads: that compute; 0: llama.cpp's own choice.
        context_tokens: of the one sequence that is served at a time.
        cache_type: of keys and values, by ggml's name; blocks are read by flash attention alone.
    """
    import xllamacpp

    found = xllamacpp.CommonParams()
    found.model.path = str(file)
    found.hostnames = [HOST]
    found.port = port
    found.n_ctx = context_tokens
    found.n_parallel = 1
    found.verbosity = _ERRORS_ONLY
    found.fit_params = False
    if cache_type != "f16":
        found.cache_type_k = found.cache_type_v = getattr(
            xllamacpp.ggml_type, f"GGML_TYPE_{cache_type.upper()}"
        )
        found.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    for name, value in _CLOSED.items():
        setattr(found, name, value)
    if threads:
        found.cpuparams.n_threads = found.cpuparams_batch.n_threads = threads
    return found


def serve(
    file: Path,
    port: int = 0,
    threads: int = 0,
    context_tokens: int = _CONTEXT_TOKENS,
    cache_type: str = "f16",
) -> None:
    """Load the file and serve it until a signal ends the process.

    Raises:
        SystemExit: there is no such file, or llama.cpp cannot load it or listen.
    """
    import xllamacpp

    if not file.is_file():
        raise SystemExit(f"no file {file}")
    signals = {signal.SIGINT, signal.SIGTERM}
    # Blocked before any thread of the server exists, so that none of them takes the signal instead of us.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        server = xllamacpp.Server(parameters(file, port, threads, context_tokens, cache_type))
    except RuntimeError as error:
        raise SystemExit(f"llama.cpp cannot serve {file}: {error}") from error
    print(f"{READY}{server.listening_address}", flush=True)
    signal.sigwait(signals)
    # The server's threads do not end while a client keeps its connection: the process leaves without them.
    os._exit(0)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="Serve a GGUF file on localhost by llama.cpp's own server.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--threads", type=int, default=0, help="0: llama.cpp's own choice")
    parser.add_argument("--context", type=int, default=_CONTEXT_TOKENS, help="tokens of a sequence")
    parser.add_argument("--cache-type", choices=["f16", "q8_0"], default="f16", help="of keys and values")
    asked = parser.parse_args()
    serve(asked.file, asked.port, asked.threads, asked.context, asked.cache_type)


if __name__ == "__main__":
    main()

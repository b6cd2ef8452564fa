"""Exports with canaries and nothing to run, and servers that answer by the book."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import httpx

from paretune.engines.canary import CANARIES, Canary, CanaryFile
from paretune.engines.manifest import MANIFEST
from paretune.monitoring.endpoint import Endpoint
from paretune.monitoring.ladder import CURRENT, LADDER, LadderFile, Rung, default_trigger
from paretune.spaces.files import sha256_of_file, write_document, write_json
from paretune.spaces.schema import sealed

SHARES = (0.6, 0.2, 0.1)


def canary(number: int, shift: int = 0) -> Canary:
    ids = tuple(range(number, number + 8))
    return Canary(
        ids=ids,
        text=f"prefix {number}",
        top_ids=tuple(10 + shift + i for i in range(3)),
        top_tokens=tuple(f"t{10 + shift + i}" for i in range(3)),
        log_probabilities=tuple(math.log(share) for share in SHARES),
    )


def write_export(folder: Path, name: str, shift: int = 0) -> Path:
    """Its right answers are tokens from ``10 + shift`` on."""
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(name.encode())
    file = CanaryFile(engine="fake", engine_version="1", canaries=tuple(canary(n, shift) for n in range(4)))
    write_document(folder / CANARIES, file)
    files = {path.name: sha256_of_file(path) for path in sorted(folder.iterdir())}
    manifest = {"name": name, "files": files, "figures": {"kl": 0.1}, "weight_bytes": 5}
    write_json(folder / MANIFEST, sealed(manifest))
    return folder


def write_ladder(folder: Path, names: tuple[str, ...] = ("small", "middle", "safe")) -> Path:
    rungs = []
    for index, name in enumerate(names):
        write_export(folder / f"{index}-{name}", name, shift=100 * index)
        rungs.append(
            Rung(
                folder=f"{index}-{name}",
                name=name,
                weight_bytes=5.0,
                kl=0.1 / (index + 1),
                launch=f"serve {name}",
                trigger=default_trigger(0.01),
            )
        )
    write_document(folder / LADDER, LadderFile(rungs=tuple(rungs)))
    (folder / CURRENT).symlink_to("0-" + names[0])
    return folder


class FakeServer:
    """An OpenAI-compatible server as vLLM is one; what it serves can be changed.

    Attributes:
        shift: its answers are tokens from ``10 + shift`` on.
        status: of every answer.
        body: in place of an answer.
    """

    def __init__(self, owner: str = "vllm") -> None:
        self.shift, self.status, self.body, self.owner = 0, 200, None, owner
        self.shares = SHARES
        self.requests: list[tuple[str, Any, httpx.Headers]] = []
        self.down = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused", request=request)
        sent = json.loads(request.content) if request.content else None
        self.requests.append((request.url.path, sent, request.headers))
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "tiny", "owned_by": self.owner}]})
        if self.status != 200 or self.body is not None:
            return httpx.Response(self.status, content=self.body or "no")
        return httpx.Response(200, json=self.answer(sent))

    def answer(self, sent: Any) -> Any:
        named = sent.get("return_tokens_as_token_ids")
        top = {
            f"token_id:{10 + self.shift + i}" if named else f"t{10 + self.shift + i}": math.log(share)
            for i, share in enumerate(self.shares)
        }
        return {"choices": [{"text": "x", "logprobs": {"top_logprobs": [top]}}]}

    def endpoint(self, **more: Any) -> Endpoint:
        return Endpoint("http://127.0.0.1:1/v1", transport=httpx.MockTransport(self), **more)

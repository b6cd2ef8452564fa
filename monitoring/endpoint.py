"""Client of a completions endpoint: one prefix in, the distribution of the next token out.

Sources: ``entrypoints/openai/completion`` of vLLM 0.26 for ``return_tokens_as_token_ids``; ``tools/server/README.md``
of llama.cpp for ``/completion``, ``n_probs``, ``post_sampling_probs`` and ``cache_prompt``. The server is told apart
by ``owned_by`` in its list of models, because a strict server refuses fields that it does not know.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from paretune.monitoring.addresses import is_server
from paretune.monitoring.answers import Answer, UnreadableAnswerError, read_answer
from paretune.monitoring.errors import EndpointError

if TYPE_CHECKING:
    import httpx

    from paretune.engines.canary import Canary

Protocol = Literal["openai", "llama.cpp"]
Prompts = Literal["ids", "text"]

_FAULT = 500
"""The one status that says something of the model: the server computed and failed, e.g. on NaN. Others of its class
come from proxies and from servers that are still loading."""

_OWN_FIELDS: dict[str, dict[str, Any]] = {
    "llamacpp": {"cache_prompt": False},
    "vllm": {"return_tokens_as_token_ids": True},
}
"""By ``owned_by``: what makes the answer exact."""


@dataclass(frozen=True)
class Timed:
    """An answer and how long it took.

    Attributes:
        answer: ``None`` where the server answered with something that is no distribution.
        seconds: from request to answer.
        fault: why there is none, else empty.
    """

    answer: Answer | None
    seconds: float
    fault: str = ""


class Endpoint:
    """A server that completes text.

    Args:
        url: of the server, with or without ``/v1``.
        protocol: ``openai`` for ``/v1/completions``, ``llama.cpp`` for its own ``/completion``.
        prompts: whether prefixes are sent as token ids or as text.
        model: name to ask for; the first that the server lists if left out.
        key: sent as a bearer token.
        timeout_s: of one request.
        transport: of ``httpx``, for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        protocol: Protocol = "openai",
        prompts: Prompts = "ids",
        model: str | None = None,
        key: str | None = None,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        import httpx

        self.url, self.protocol, self.prompts = _base(url), protocol, prompts
        self._model = model
        self._own: dict[str, Any] = {}
        # No proxy of the environment's: what is asked of a local server stays on the machine.
        self._client = httpx.Client(
            timeout=timeout_s,
            transport=transport,
            trust_env=False,
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
        )

    def greet(self) -> None:
        """Ask who serves, and under which name. What has been restarted since may have another.

        Raises:
            EndpointError: it cannot be reached.
        """
        if self.protocol == "llama.cpp":
            self._own = {}
            return
        response = self._send("GET", "/v1/models", None)
        try:
            first = response.json()["data"][0]
            name, owner = str(first["id"]), str(first.get("owned_by", ""))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            name, owner = None, ""
        asked = self._model or name
        self._own = {**_OWN_FIELDS.get(owner, {}), **({} if asked is None else {"model": asked})}

    def ask(self, canary: Canary) -> Timed:
        """What the server predicts after a canary's prefix, as many tokens as the reference has.

        Raises:
            EndpointError: it cannot be reached, is not ready, or refuses the request.
        """
        start = time.perf_counter()
        path, body = self._request(canary)
        response = self._send("POST", path, body)
        seconds = time.perf_counter() - start
        if response.status_code == _FAULT:
            return Timed(None, seconds, f"the server failed: {response.text[:200]}")
        try:
            return Timed(read_answer(response.json()), seconds)
        except UnreadableAnswerError as error:
            return Timed(None, seconds, f"the answer {error.rule}")
        except ValueError as error:
            return Timed(None, seconds, f"the answer is no JSON ({error})")

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _request(self, canary: Canary) -> tuple[str, dict[str, Any]]:
        prompt = list(canary.ids) if self.prompts == "ids" else canary.text
        if prompt is None:
            raise EndpointError("a canary", "has no text that stands for its tokens", "Send token ids")
        top = len(canary.top_ids)
        if self.protocol == "llama.cpp":
            own = {"n_predict": 1, "n_probs": top, "post_sampling_probs": False, "cache_prompt": False}
            return "/completion", {"prompt": prompt, "temperature": 0, **own}
        body = {"prompt": prompt, "max_tokens": 1, "logprobs": top, "temperature": 0, "stream": False}
        return "/v1/completions", {**body, **self._own}

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        import httpx

        try:
            response = self._client.request(method, self.url + path, json=body)
        except httpx.HTTPError as error:
            raise EndpointError(
                f"endpoint {self.url}",
                f"cannot be asked ({type(error).__name__}: {error})",
                "Start the server, or name another address",
            ) from error
        if response.is_success or response.status_code == _FAULT:
            return response
        raise EndpointError(
            f"endpoint {self.url}{path}",
            f"answers {response.status_code}: {response.text[:200]}",
            "Wait until it is ready, or ask it otherwise (--protocol, --prompts, --model, --key-file)",
        )


def _base(url: str) -> str:
    if not is_server(url):
        raise EndpointError(f"endpoint {url!r}", "is no address of a server", "Write http://127.0.0.1:8080")
    return url.rstrip("/").removesuffix("/v1")

"""What is sent to a server, and the shapes in which it answers."""

from __future__ import annotations

import json
import math

import httpx
import pytest

from paretune.monitoring.answers import UnreadableAnswerError, read_answer
from paretune.monitoring.endpoint import Endpoint
from paretune.monitoring.errors import EndpointError, MonitorError
from paretune.monitoring.reading import drift, take_reading, usable
from tests.monitoring.fakes import SHARES, FakeServer, canary

LIST = [{"id": 10, "token": "a", "bytes": [97], "logprob": -0.5}, {"id": 11, "token": "b", "logprob": -2.0}]


@pytest.mark.parametrize(
    ("document", "by_id", "by_text"),
    [
        ({"choices": [{"logprobs": {"top_logprobs": [{"a": -0.5, "b": -2.0}]}}]}, {}, {"a": -0.5, "b": -2.0}),
        ({"choices": [{"logprobs": {"top_logprobs": [{"token_id:10": -0.5}]}}]}, {10: -0.5}, {}),
        ({"choices": [{"logprobs": {"content": [{"top_logprobs": LIST}]}}]}, {10: -0.5, 11: -2.0}, {}),
        ({"completion_probabilities": [{"top_logprobs": LIST}]}, {10: -0.5, 11: -2.0}, {}),
        (
            {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "a", "logprob": -1}]}]}}]},
            {},
            {"a": -1.0},
        ),
    ],
    ids=["openai", "vllm", "llama.cpp as openai", "llama.cpp", "chat-like"],
)
def test_every_shape_of_an_answer_is_read(document, by_id, by_text):
    found = read_answer(document)
    assert (found.by_id, found.by_text) == (by_id, by_text)


@pytest.mark.parametrize(
    "document",
    [
        {}, [], None, {"choices": []}, {"choices": [{"logprobs": None}]},
        {"choices": [{"logprobs": {"top_logprobs": [{}]}}]},
        {"choices": [{"logprobs": {"top_logprobs": [{"a": None}]}}]},
        {"choices": [{"logprobs": {"top_logprobs": [{"a": math.nan}]}}]},
        {"choices": [{"logprobs": {"top_logprobs": [{"a": 0.5}]}}]},
        {"choices": [{"logprobs": {"top_logprobs": [{"a": True}]}}]},
        {"completion_probabilities": [{"top_logprobs": [{"id": 3, "logprob": None}]}]},
        {"completion_probabilities": [{"top_logprobs": []}]},
    ],
)  # fmt: skip
def test_what_is_no_distribution_is_refused(document):
    with pytest.raises(UnreadableAnswerError):
        read_answer(document)


def test_requests_ask_for_one_token_of_the_first_model():
    server = FakeServer()
    endpoint = server.endpoint(key="secret")
    endpoint.greet()
    assert endpoint.ask(canary(3)).answer.by_id == {10 + i: math.log(s) for i, s in enumerate(SHARES)}
    path, sent, headers = server.requests[-1]
    assert path == "/v1/completions"
    assert sent == {
        "prompt": list(range(3, 11)), "max_tokens": 1, "logprobs": 3, "temperature": 0, "stream": False,
        "model": "tiny", "return_tokens_as_token_ids": True,
    }  # fmt: skip
    assert headers["authorization"] == "Bearer secret"


def test_a_server_of_another_make_is_sent_nothing_that_it_may_not_know():
    server = FakeServer("somebody")
    endpoint = server.endpoint(prompts="text", model="mine")
    endpoint.greet()
    found = endpoint.ask(canary(3)).answer
    assert set(server.requests[-1][1]) == {
        "prompt",
        "max_tokens",
        "logprobs",
        "temperature",
        "stream",
        "model",
    }
    assert server.requests[-1][1]["prompt"] == "prefix 3"
    assert server.requests[-1][1]["model"] == "mine"
    assert drift(canary(3), found) == pytest.approx(0.0, abs=1e-12)


def test_llama_cpp_is_asked_in_its_own_words():
    seen = []

    def answer(request):
        seen.append((request.url.path, json.loads(request.content)))
        return httpx.Response(200, json={"completion_probabilities": [{"top_logprobs": LIST}]})

    endpoint = Endpoint("http://[::1]:8080/", protocol="llama.cpp", transport=httpx.MockTransport(answer))
    endpoint.greet()
    assert endpoint.ask(canary(0)).answer.by_id == {10: -0.5, 11: -2.0}
    ((path, sent),) = seen
    assert path == "/completion"
    assert (sent["n_predict"], sent["n_probs"], sent["post_sampling_probs"]) == (1, 3, False)


def test_text_that_tokens_share_cannot_tell_them_apart():
    twice = canary(0).model_copy(update={"top_tokens": ("a", "a", "b")})
    server = FakeServer("somebody")
    server.answer = lambda sent: {
        "choices": [{"logprobs": {"top_logprobs": [{"a": math.log(0.2), "b": math.log(0.1)}]}}]
    }
    reading = take_reading(server.endpoint(), [twice])
    assert reading.drift_nats == pytest.approx(0.0, abs=1e-9)
    broken = canary(0).model_copy(update={"top_tokens": ("\ufffd", "x\ufffd", "\ufffdy")})
    assert take_reading(server.endpoint(), [broken]).drift_nats == math.inf


def test_a_reading_is_a_mean_over_canaries():
    server = FakeServer()
    healthy = take_reading(server.endpoint(), [canary(n) for n in range(3)])
    assert healthy.drift_nats == pytest.approx(0.0, abs=1e-12)
    assert (healthy.canaries, healthy.unanswered, healthy.reason) == (3, 0, "")
    assert healthy.latency_s > 0
    server.shares = (0.3, 0.3, 0.2)
    found = take_reading(server.endpoint(), [canary(0), canary(1)])
    by_hand = 0.6 * math.log(2) + 0.2 * math.log(2 / 3) + 0.1 * math.log(0.5) + 0.1 * math.log(0.5)
    assert found.drift_nats == pytest.approx(by_hand)


@pytest.mark.parametrize("status", [400, 401, 404, 502, 503])
def test_a_server_that_refuses_or_is_not_ready_says_nothing_of_its_model(status):
    server = FakeServer()
    server.status = status
    found = take_reading(server.endpoint(), [canary(0)])
    assert (found.unanswered, found.drift_nats) == (1, None)
    assert str(status) in found.reason
    server.down = True
    found = take_reading(server.endpoint(), [canary(0)])
    assert (found.unanswered, found.drift_nats) == (1, None)


@pytest.mark.parametrize(
    ("status", "body"), [(500, "NaN"), (200, "<html>"), (200, '{"choices": []}'), (200, '{"a": NaN}')]
)
def test_an_answer_that_is_no_distribution_is_drift_without_bounds(status, body):
    server = FakeServer()
    server.status, server.body = status, body
    found = take_reading(server.endpoint(), [canary(0)])
    assert found.drift_nats == math.inf
    assert found.unanswered == 0
    assert found.reason


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://host", "http://", "file:///etc/passwd"])
def test_addresses_of_no_server_are_refused(url):
    with pytest.raises(EndpointError):
        Endpoint(url)


def test_canaries_without_text_cannot_be_asked_of_a_server_that_takes_text():
    silent = canary(0).model_copy(update={"text": None})
    assert usable([silent], FakeServer().endpoint()) == (silent,)
    assert usable([silent, canary(1)], FakeServer().endpoint(prompts="text")) == (canary(1),)
    with pytest.raises(MonitorError, match="no text"):
        usable([silent], FakeServer().endpoint(prompts="text"))

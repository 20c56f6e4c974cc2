"""OpenAI's Node client: streams, parsing by zod, tools, errors and retries."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from .conftest import Host
from .node_client import NodeClient
from .test_openai import CALLED, FORECAST

Use = Callable[[str], Any]


@pytest.fixture
def use(node: NodeClient, host: Host) -> Use:
    return partial(node.run, host.base_url)


def test_stream(use: Use, host: Host) -> None:
    host.engine.say("Grüezi 🙂")
    came = use("stream")
    assert came["said"] == "Grüezi 🙂"
    assert came["usage"]["completion_tokens"] == len(host.engine.reply)


def test_leaving_a_stream_ends_the_request(
    use: Use, host: Host, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    host.engine.delay_s = 0.3
    use("leave")
    wait_until(lambda: bool(host.engine.aborted))


def test_parse_gives_the_object_back(use: Use, host: Host) -> None:
    host.engine.say(FORECAST)
    assert use("parse") == [json.loads(FORECAST)] * 2
    assert all('"city"' in request.sampling.grammar for request in host.engine.requests)


def test_tools_are_called_and_answered(use: Use, host: Host) -> None:
    host.engine.say(f"<think>Hm.</think>{CALLED}{CALLED}")
    came = use("tools")
    assert came["finish_reason"] == "tool_calls"
    assert came["parsed"] == [[{"city": "Genève"}] * 2] * 2
    assert host.prompt().count("<tool_call>") == 2 and "tool:wet;tool:wet;" in host.prompt()


def test_responses_stream(use: Use, host: Host) -> None:
    host.engine.say("<think>Hm.</think>Grüezi")
    came = use("responses")
    assert (came["first"], came["last"]) == ("response.created", "response.completed")
    assert came["texts"] == ["Grüezi"] * 2


def test_each_mistake_has_its_exception(use: Use) -> None:
    assert use("errors") == [
        {
            "kind": "NotFoundError",
            "status": 404,
            "code": "model_not_found",
            "param": "model",
            "hasId": True,
        },
        {
            "kind": "BadRequestError",
            "status": 400,
            "code": "decimal_above_max_value",
            "param": "temperature",
            "hasId": True,
        },
    ]


def test_an_error_in_mid_stream_is_raised(use: Use, host: Host) -> None:
    host.engine.dies_at = 3
    assert use("midstream")["code"] == "engine_dead"


def test_a_server_that_is_not_ready_is_tried_again(use: Use, host: Host) -> None:
    host.num_refused = 2
    assert use("retries")
    assert len(host.calls) == 3


def test_what_will_fail_again_is_not_tried_again(use: Use, host: Host) -> None:
    host.engine.delay_s = 0.2
    assert use("hopeless")["status"] == 408
    assert len(host.calls) == 1


def test_embeddings(use: Use, host: Host) -> None:
    """The client asks for base64 and unpacks it."""
    wanted = [host.engine.embedding(list(text)) for text in (b"Hi", b"you")]
    for vector, exact in zip(use("embeddings"), wanted, strict=True):
        assert vector == pytest.approx(exact, abs=2**-24)

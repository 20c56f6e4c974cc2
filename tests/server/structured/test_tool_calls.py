"""Calls that the client requires: a random model makes valid ones, in each template's format."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import jsonschema
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools|tojson }}"
TEMPLATES = {
    "hermes": PROMPT + "{# <tool_call> #}",
    "llama3_json": PROMPT + '{# {"name": x, "parameters": y} #}',
    "mistral": PROMPT + "{# [TOOL_CALLS] #}",
    "mistral_named": PROMPT + "{# [TOOL_CALLS][ARGS] #}",
    "qwen3_coder": PROMPT + "{# <tool_call><function=f><parameter=p> #}",
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 9},
            "days": {"$ref": "#/$defs/few"},
            "units": {"enum": ["°C", "°F"]},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
        "$defs": {"few": {"type": "integer", "minimum": 1, "maximum": 9}},
    },
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in SCHEMAS.items()
]


async def call(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    body = {
        "model": "dense",
        "messages": [{"role": "user", "content": "Go."}],
        "tools": TOOLS,
        "max_tokens": 400,
        **fields,
    }
    answer = await client.post("/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def check_calls(choice: dict[str, Any], names: set[str]) -> None:
    """A text of a random model may be long, so an answer that was cut off proves nothing."""
    if choice["finish_reason"] == "length":
        return
    calls = choice["message"]["tool_calls"]
    assert choice["message"]["content"] is None and calls
    for made in calls:
        assert made["function"]["name"] in names
        jsonschema.validate(
            json.loads(made["function"]["arguments"]), SCHEMAS[made["function"]["name"]]
        )


@pytest.mark.parametrize("name", TEMPLATES)
async def test_required_and_named_calls_are_valid(
    talker_with: Callable[[str], httpx.AsyncClient], name: str
) -> None:
    client = talker_with(TEMPLATES[name])
    named = {"type": "function", "function": {"name": "now"}}
    answers = await asyncio.gather(
        *(call(client, tool_choice="required", seed=seed) for seed in range(6)),
        *(
            call(client, tool_choice="required", parallel_tool_calls=False, seed=seed)
            for seed in range(2)
        ),
        call(client, tool_choice=named),
    )
    for choice in answers[:-1]:
        check_calls(choice, set(SCHEMAS))
    finished = [choice for choice in answers[:8] if choice["finish_reason"] == "tool_calls"]
    assert len(finished) >= 3
    for choice in answers[6:8]:
        assert len(choice["message"].get("tool_calls", [])) <= 1
    check_calls(answers[-1], {"now"})
    assert answers[-1]["finish_reason"] == "stop"


async def test_with_a_form_and_tools_the_answer_is_either(
    talker_with: Callable[[str], httpx.AsyncClient],
) -> None:
    client, less_than = talker_with(TEMPLATES["hermes"]), str(ord("<"))
    form = {"guided_choice": ["yes", "no"]}
    text = await call(client, **form, logit_bias={less_than: -100})
    assert text["message"]["content"] in ("yes", "no") and text["finish_reason"] == "stop"
    called = await call(client, **form, logit_bias={less_than: 100}, parallel_tool_calls=False)
    check_calls(called, set(SCHEMAS))
    assert called["message"]["tool_calls"]


async def test_a_form_leaves_the_reasoning_free(
    talker_with: Callable[[str], httpx.AsyncClient],
) -> None:
    client = talker_with(PROMPT + "{# </think> #}{{ '<think>' }}")
    choice = await call(client, tools=[], guided_choice=["yes"], max_tokens=50)
    assert choice["finish_reason"] == "length"
    assert choice["message"]["reasoning_content"] and not choice["message"]["content"]

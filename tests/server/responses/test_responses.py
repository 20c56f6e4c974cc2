"""``/v1/responses`` on the fake engine: items, events, the store, and work in the background."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from qoq.server.responses import store

from ..tools.test_chat_tools import CALL, THINKING, Clients

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"x": {}}}}
SAID = f"<think>Hm.</think>Well.\n{CALL}"


async def create(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/v1/responses", json={"model": "fake", "input": "Hi"} | fields)
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    Response.model_validate(response)
    return response


async def events_of(client: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "fake", "input": "Hi", "stream": True} | fields
    answer = await client.post("/v1/responses", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def without_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [without_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    times = {"id", "call_id", "created_at", "completed_at"}
    return {key: without_ids(item) for key, item in value.items() if key not in times}


async def test_text_is_a_message(client: httpx.AsyncClient, engine: Any) -> None:
    engine.say("Grüezi")
    response = await create(client, instructions="Be brief.", max_output_tokens=50)
    (item,) = response["output"]
    assert response["status"] == "completed" and item["status"] == "completed"
    assert item["content"] == [
        {"type": "output_text", "text": "Grüezi", "annotations": [], "logprobs": []}
    ]
    prompt = bytes(t for t in engine.requests[-1].prompt_token_ids if t < 256).decode()
    assert "Be brief." in prompt and engine.requests[-1].sampling.max_tokens == 50
    assert response["usage"]["output_tokens"] == len("Grüezi".encode()) + 1


async def test_reasoning_text_and_calls_are_items(client_with: Clients, engine: Any) -> None:
    engine.say(SAID)
    response = await create(client_with(THINKING), tools=[TOOL])
    reasoning, message, call = response["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert message["content"][0]["text"] == "Well."
    assert (call["name"], call["arguments"]) == ("f", '{"x": "é"}')
    assert call["call_id"].startswith("call_")


@pytest.mark.parametrize("tokens_per_output", [1, 7, 1000])
async def test_events_add_up_to_the_response(
    client_with: Clients, engine: Any, tokens_per_output: int
) -> None:
    engine.say(SAID)
    engine.tokens_per_output = tokens_per_output
    client = client_with(THINKING)
    whole = await create(client, tools=[TOOL])
    events = await events_of(client, tools=[TOOL])
    assert events[0]["type"] == "response.created" and events[-1]["type"] == "response.completed"
    final = events[-1]["response"]
    assert without_ids(final) == without_ids(whole)
    deltas: dict[int, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            place = event["output_index"]
            deltas[place] = deltas.get(place, "") + event["delta"]
    assert deltas == {0: "Hm.", 1: "Well.", 2: '{"x": "é"}'}
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == final["output"]
    stored = await client.get(f"/v1/responses/{final['id']}")
    assert stored.json() == final


async def test_what_is_cut_off_is_incomplete(client: httpx.AsyncClient) -> None:
    response = await create(client, max_output_tokens=3)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    events = await events_of(client, max_output_tokens=3)
    assert events[-1]["type"] == "response.incomplete"


async def test_a_response_goes_on_from_the_previous_one(client_with: Clients, engine: Any) -> None:
    engine.say(SAID)
    client = client_with(THINKING)
    first = await create(client, tools=[TOOL], input="Hi", instructions="Not kept.")
    call_id = first["output"][2]["call_id"]
    output = {"type": "function_call_output", "call_id": call_id, "output": "sunny"}
    engine.say("Yes.")
    second = await create(client, input=[output], previous_response_id=first["id"])
    prompt = bytes(engine.requests[-1].prompt_token_ids).decode()
    assert prompt == "user:Hi;assistant:Well.<tool_call>é;tool:sunny;"
    third = await create(client, input="Bye", previous_response_id=second["id"])
    prompt = bytes(engine.requests[-1].prompt_token_ids).decode()
    assert prompt.endswith("tool:sunny;assistant:Yes.;user:Bye;")
    assert third["previous_response_id"] == second["id"]


async def test_a_schema_becomes_a_grammar(client: httpx.AsyncClient, engine: Any) -> None:
    wanted = {"type": "json_schema", "name": "x", "schema": {"type": "integer"}, "strict": True}
    response = await create(client, text={"format": wanted})
    assert '"integer"' in engine.requests[-1].sampling.grammar
    assert response["text"]["format"] == wanted


async def test_no_field_is_null_that_openai_has_no_null_for(client: httpx.AsyncClient) -> None:
    first, *_ = await events_of(client)
    assert not {"user", "usage"} & set(first["response"])
    assert (await create(client, user="me"))["user"] == "me"


async def test_a_response_in_the_background_is_made_and_can_be_cancelled(
    client: httpx.AsyncClient, engine: Any
) -> None:
    engine.say("Later.")
    response = await create(client, background=True)
    assert response["status"] == "queued" and response["output"] == []
    for _ in range(200):
        await asyncio.sleep(0.005)
        response = (await client.get(f"/v1/responses/{response['id']}")).json()
        if response["status"] == "completed":
            break
    assert response["output"][0]["content"][0]["text"] == "Later."
    engine.delay_s = 0.5
    slow = await create(client, background=True)
    await asyncio.sleep(0.05)
    for _ in range(2):
        answer = await client.post(f"/v1/responses/{slow['id']}/cancel")
        assert answer.status_code == 200 and answer.json()["status"] == "cancelled"
    assert not engine.running and engine.aborted


async def test_delete_forgets(client: httpx.AsyncClient) -> None:
    response = await create(client)
    answer = await client.delete(f"/v1/responses/{response['id']}")
    assert answer.json() == {"id": response["id"], "object": "response", "deleted": True}
    assert (await client.get(f"/v1/responses/{response['id']}")).status_code == 404


async def test_the_store_is_bounded(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_RESPONSES", 2)
    ids = [(await create(client))["id"] for _ in range(3)]
    unkept = await create(client, store=False)
    found = [(await client.get(f"/v1/responses/{i}")).status_code for i in (*ids, unkept["id"])]
    assert found == [404, 200, 200, 404]
    monkeypatch.setattr(store, "MAX_BYTES", 3000)
    large = await create(client, input="x" * 200, metadata={"k": "y" * 1500})
    assert (await client.get(f"/v1/responses/{large['id']}")).status_code == 200
    assert (await client.get(f"/v1/responses/{ids[2]}")).status_code == 404


async def test_an_engine_that_dies_fails_the_response(
    client: httpx.AsyncClient, engine: Any
) -> None:
    engine.dies_at = 3
    events = await events_of(client)
    assert events[-1]["type"] == "response.failed"
    assert "signal 9" in events[-1]["response"]["error"]["message"]
    engine.cause = None
    answer = await client.post("/v1/responses", json={"model": "fake", "input": "Hi"})
    assert answer.status_code == 503


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"input": []}, "input"),
    ({"input": [{"type": "file"}]}, "input[0]"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"background": True, "stream": True}, "stream"),
    ({"background": True, "store": False}, "store"),
    ({"previous_response_id": "resp_0"}, "previous_response_id"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "y"}}}},
        "text.format",
    ),
    ({"tools": [TOOL]}, "tools"),
    ({"truncation": "auto"}, "truncation"),
    ({"nonsense": 1}, "nonsense"),
]


@pytest.mark.parametrize(("fields", "param"), MISTAKES)
async def test_mistake_is_named(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    answer = await client.post("/v1/responses", json={"model": "fake", "input": "Hi"} | fields)
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["param"] == param


async def test_only_a_response_in_the_background_can_be_cancelled(
    client: httpx.AsyncClient,
) -> None:
    response = await create(client)
    answer = await client.post(f"/v1/responses/{response['id']}/cancel")
    assert answer.status_code == 400
    assert (await client.post("/v1/responses/resp_0/cancel")).status_code == 404

"""One request over a real socket: what is noted, what counts as failed, and that leaving closes."""

import asyncio
from typing import Any

import pytest

from qoq.loadtest.client import Target, first_model, send
from qoq.loadtest.record import Outcome, Record
from qoq.loadtest.workload import Job


async def ask(server: Any, leave_after: int | None = None, **target: Any) -> Record:
    job = Job(index=4, prompt="time year people", output_len=3, leave_after=leave_after)
    return (await send(Target(base_url=server.url, model="m", **target), job)).read()


async def test_notes_when_each_token_came(server: Any, stream: Any) -> None:
    role = stream.event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    server.script = [(0.0, role), (0.05, stream.text("a")), (0.03, stream.text("b"))]
    server.script += [(0.02, stream.text("c")), (0.04, stream.ending(11, 3))]
    record = await ask(server)
    assert (record.outcome, record.error, record.index) == (Outcome.FINISHED, None, 4)
    assert (record.prompt_tokens, record.output_tokens) == (11, 3)
    assert [event.num_tokens for event in record.events] == [1, 1, 1]
    # Sleeps are never short, so each time has a floor; the first event held no text.
    assert record.ttft_s is not None and record.ttft_s >= 0.049
    assert record.events[1].time_s - record.sent_s >= 0.079
    assert record.events[2].time_s - record.sent_s >= 0.099
    assert record.e2e_s >= 0.139


async def test_what_is_asked_for(server: Any, stream: Any) -> None:
    server.script = [(0.0, stream.ending(3, 0))]
    await ask(server)
    await ask(server, endpoint="completions")
    chat, completion = server.bodies
    assert chat["messages"] == [{"role": "user", "content": "time year people"}]
    assert completion["prompt"] == "time year people"
    for body in (chat, completion):
        assert body["model"] == "m"
        assert body["max_tokens"] == 3
        assert body["ignore_eos"] is body["stream"] is True
        assert body["stream_options"] == {"include_usage": True}


async def test_the_text_of_a_completion_counts(server: Any, stream: Any) -> None:
    piece = stream.event({"choices": [{"text": "a", "finish_reason": None}]})
    server.script = [(0.0, piece), (0.0, stream.ending(3, 1))]
    assert len((await ask(server, endpoint="completions")).events) == 1


async def test_a_running_count_is_believed(server: Any, stream: Any) -> None:
    server.script = [
        (0.0, stream.text("a", completion_tokens=1)),
        (0.0, stream.text("bc", completion_tokens=3)),
        (0.0, stream.ending(11, 3)),
    ]
    assert [event.num_tokens for event in (await ask(server)).events] == [1, 2]


async def test_unusual_line_ends_stay_inside_an_event(server: Any, stream: Any) -> None:
    """Splitting text at U+2028, as str.splitlines does, would tear the JSON apart."""
    server.script = [(0.0, stream.text("a\u2028b\u0085c")), (0.0, stream.ending(11, 1))]
    assert (await ask(server)).outcome is Outcome.FINISHED


async def test_an_event_may_come_in_pieces(server: Any, stream: Any) -> None:
    whole = stream.text("über") + stream.ending(11, 1)
    server.script = [(0.001, whole[i : i + 7]) for i in range(0, len(whole), 7)]
    record = await ask(server)
    assert (record.outcome, record.output_tokens) == (Outcome.FINISHED, 1)


@pytest.mark.parametrize("leave_after", [0, 1, 3])
async def test_leaving_closes_the_connection(server: Any, stream: Any, leave_after: int) -> None:
    """The server learns of it at once, a minute before it would have sent its next token."""
    server.script = [(0.01, stream.text("a"))] * 3 + [(60.0, stream.ending(11, 4))]
    record = await ask(server, leave_after=leave_after, timeout_s=10)
    assert (record.outcome, len(record.events)) == (Outcome.LEFT, leave_after)
    async with asyncio.timeout(5):
        while server.num_open:
            await asyncio.sleep(0.005)
    assert server.num_left == 1


async def test_a_status_is_a_failure_with_its_body(server: Any) -> None:
    server.status, server.script = "503 Service Unavailable", [(0.0, b'{"error": "too busy"}')]
    record = await ask(server, leave_after=0)
    assert record.outcome is Outcome.FAILED
    assert record.error == 'status 503: {"error": "too busy"}'


@pytest.mark.parametrize("leave_after", [None, 5])
async def test_streams_that_end_badly_are_failures(
    server: Any, stream: Any, leave_after: int | None
) -> None:
    endings = {
        b"": "broke off before [DONE]",
        b"data: [DONE]\n\n": "without a finish reason",
        b"data: {oops\n\n": "not a JSON object",
        b"data: [1]\n\n": "not a JSON object",
        stream.event({"error": {"message": "engine died"}}): "engine died",
    }
    for ending, reason in endings.items():
        server.script = [(0.0, stream.text("a")), (0.0, ending)]
        record = await ask(server, leave_after)
        assert record.outcome is Outcome.FAILED
        assert reason in str(record.error)
        assert len(record.events) == 1


async def test_a_silent_server_is_left_at_the_timeout(server: Any, stream: Any) -> None:
    server.script = [(0.0, stream.text("a")), (60.0, stream.ending(11, 2))]
    record = await ask(server, timeout_s=0.2)
    assert (record.outcome, record.error) == (Outcome.FAILED, "no end within 0.2 s")
    assert 0.2 <= record.e2e_s < 10


async def test_no_server_is_a_failure() -> None:
    target = Target(base_url="http://127.0.0.1:1", model="m")
    record = (await send(target, Job(index=0, prompt="a", output_len=1))).read()
    assert record.outcome is Outcome.FAILED
    assert "ConnectionRefusedError" in str(record.error)


async def test_the_first_model_listed(server: Any) -> None:
    assert await first_model(Target(base_url=server.url + "/", timeout_s=5)) == "fake-model"

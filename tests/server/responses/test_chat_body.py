"""Items of a conversation as the messages that a chat template sees."""

from __future__ import annotations

from qoq.server.responses.chat_body import chat_body, items_of
from qoq.server.responses.wire import ResponseRequest

THOUGHT = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]}
SAID = {"role": "assistant", "content": [{"type": "output_text", "text": "Well."}]}
CALLS = [
    {"type": "function_call", "call_id": place, "name": "f", "arguments": "{}"} for place in "12"
]
OUTPUT = {"type": "function_call_output", "call_id": "1", "output": "sunny"}


def test_what_the_assistant_says_in_one_go_is_one_message() -> None:
    given = [{"role": "user", "content": "Hi"}, THOUGHT, SAID, *CALLS, OUTPUT, SAID, THOUGHT]
    body = ResponseRequest.model_validate({"model": "m", "input": given, "instructions": "Brief."})
    messages = chat_body(body, items_of(body)).messages
    assert [message.role for message in messages] == [
        *("system", "user", "assistant", "tool", "assistant")
    ]
    answer = messages[2]
    assert (answer.reasoning_content, answer.content) == ("Hm.", "Well.")
    assert answer.tool_calls is not None and [call.id for call in answer.tool_calls] == ["1", "2"]
    assert (messages[3].tool_call_id, messages[3].content) == ("1", "sunny")
    assert messages[4].content == "Well." and messages[4].reasoning_content is None

"""Every tool format: what is read from a whole text, from its characters, and from broken texts."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qoq.server.tools.parts import CallArguments, CallStart, Content, Part, Reasoning
from qoq.server.tools.reader import Parser
from qoq.server.tools.reasoning import Thinking, read_after
from qoq.server.tools.tool import Tool
from qoq.server.tools.tool_format import ToolFormat, find_tool_format

TEMPLATES = {
    "hermes": "{% for t in tools %}{{ t|tojson }}{% endfor %}<tool_call>\n{{ x }}\n</tool_call>",
    "llama3_json": '{% if tools %}Answer with {"name": name, "parameters": {...}}.{% endif %}',
    "mistral": "[AVAILABLE_TOOLS]{{ tools|tojson }}[/AVAILABLE_TOOLS][TOOL_CALLS][{{ x }}]",
    "mistral_named": "[AVAILABLE_TOOLS]{{ tools|tojson }}[TOOL_CALLS]{{ x }}[ARGS]{{ y }}",
    "qwen3_coder": "{{ tools }}<tool_call><function=f>\n<parameter=p>\nv\n</parameter></function>",
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS = (Tool("weather", CITY), Tool("get-time"), Tool("größe"))
JSON_ARGUMENTS = '{"city": "Zürich \\"}] </tool", "days": 3, "deep": [{"a": "]}"}, null]}'


def format_of(name: str) -> ToolFormat:
    found = find_tool_format(TEMPLATES[name])
    assert found is not None
    return found


def parser_of(name: str, thinking: Thinking = Thinking.NEVER) -> Parser:
    read = format_of(name).read
    return Parser(read_after(thinking, lambda reader: read(reader, TOOLS)))


def read_pieces(parser: Parser, pieces: Iterable[str]) -> list[Part]:
    """The parts, those of a kind that follow each other joined."""
    parts = [part for piece in pieces for part in parser.add(piece)] + parser.finish()
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, CallStart) or type(last) is not type(part):
            joined.append(part)
        else:
            joined[-1] = type(part)(last.text + part.text)
    return joined


def read_whole_and_cut(name: str, text: str, thinking: Thinking = Thinking.NEVER) -> list[Part]:
    whole = read_pieces(parser_of(name, thinking), [text])
    assert read_pieces(parser_of(name, thinking), text) == whole
    return whole


def call(name: str, arguments: str) -> list[Part]:
    return [CallStart(name), CallArguments(arguments)]


HERMES = f'<tool_call>\n{{"name": "weather", "arguments": {JSON_ARGUMENTS}}}\n</tool_call>'
CODER = (
    '<tool_call>\n<function=weather>\n<parameter=city>\nZü\n"rich"\n</parameter>\n'
    "<parameter=days>\n 3 \n</parameter>\n</function>\n</tool_call>"
)
CODER_ARGUMENTS = '{"city": "Zü\\n\\"rich\\"", "days": 3}'
EMPTY_HERMES = '<tool_call>{"name":"get-time"}</tool_call>'
CASES: dict[str, tuple[str, str, list[Part]]] = {
    "hermes, one call": ("hermes", HERMES, call("weather", JSON_ARGUMENTS)),
    "hermes, text before, between and after": (
        "hermes",
        f" Let me see.\n\n{HERMES}\n\nAnd {EMPTY_HERMES} so\n",
        [
            Content(" Let me see."),
            *call("weather", JSON_ARGUMENTS),
            Content("And"),
            *call("get-time", "{}"),
            Content("so"),
        ],
    ),
    "hermes, parallel calls": (
        "hermes",
        f"{HERMES}\n{EMPTY_HERMES}",
        [*call("weather", JSON_ARGUMENTS), *call("get-time", "{}")],
    ),
    "hermes, arguments first and as a string": (
        "hermes",
        '<tool_call>{"arguments": "{\\"a\\": 1}", "id": 7, "name": "get-time"}</tool_call>',
        call("get-time", '{"a": 1}'),
    ),
    "hermes, cut off in the arguments": (
        "hermes",
        '<tool_call>{"name": "weather", "arguments": {"city": "B',
        call("weather", '{"city": "B'),
    ),
    "hermes, no call after the marker": (
        "hermes",
        "<tool_call>\n[1, 2]</tool_call> what",
        [Content("<tool_call>\n[1, 2]</tool_call> what")],
    ),
    "hermes, only text with half a marker": ("hermes", "a <tool_cal\n", [Content("a <tool_cal\n")]),
    "hermes, half a surrogate pair for a name": (
        "hermes",
        '<tool_call>{"name": "\\ud83d"}',
        [Content('<tool_call>{"name": "\\ud83d"}')],
    ),
    "hermes, half a surrogate pair in arguments that are a string": (
        "hermes",
        '<tool_call>{"name": "get-time", "arguments": "\\ud83d"}</tool_call>',
        call("get-time", '"\\ud83d"'),
    ),
    "llama, one call": (
        "llama3_json",
        f'{{"name": "weather", "parameters": {JSON_ARGUMENTS}}}',
        call("weather", JSON_ARGUMENTS),
    ),
    "llama, tag, type and two calls": (
        "llama3_json",
        '<|python_tag|>{"type": "function", "name": "get-time", "parameters": {}}; '
        '{"name": "größe", "parameters": {"x": 1.5}}',
        [*call("get-time", "{}"), *call("größe", '{"x": 1.5}')],
    ),
    "llama, JSON that is no call": (
        "llama3_json",
        '{"name": "Bob",\n "age": 3}',
        [Content('{"name": "Bob",\n "age": 3}')],
    ),
    "llama, other JSON": ("llama3_json", '{ "age": {}} ', [Content('{ "age": {}} ')]),
    "llama, text": ("llama3_json", "It is {nice}.", [Content("It is {nice}.")]),
    "mistral, a list": (
        "mistral",
        f'[TOOL_CALLS] [{{"name": "weather", "arguments": {JSON_ARGUMENTS}}}, '
        '{"name": "get-time", "arguments": {}}]',
        [*call("weather", JSON_ARGUMENTS), *call("get-time", "{}")],
    ),
    "mistral, names": (
        "mistral",
        f"Well.[TOOL_CALLS]weather[ARGS]{JSON_ARGUMENTS}[TOOL_CALLS]get-time[CALL_ID]a1[ARGS]{{}}",
        [Content("Well."), *call("weather", JSON_ARGUMENTS), *call("get-time", "{}")],
    ),
    "coder, one call": ("qwen3_coder", CODER, call("weather", CODER_ARGUMENTS)),
    "coder, text and parallel calls": (
        "qwen3_coder",
        f"Hm.\n{CODER}\n<tool_call>\n<function=get-time>\n</function>\n</tool_call>\n",
        [Content("Hm."), *call("weather", CODER_ARGUMENTS), *call("get-time", "{}")],
    ),
    "coder, a value that is not of its type": (
        "qwen3_coder",
        "<function=weather><parameter=days>NaN or so</parameter></function>",
        call("weather", '{"days": "NaN or so"}'),
    ),
    "coder, a value that only Python takes for JSON": (
        "qwen3_coder",
        "<function=weather><parameter=days>[NaN]</parameter></function>",
        call("weather", '{"days": "[NaN]"}'),
    ),
    "coder, a value with half a surrogate pair": (
        "qwen3_coder",
        '<function=weather><parameter=days>"\\ud83d"</parameter></function>',
        call("weather", '{"days": "\\ud83d"}'),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_text_is_read_whole_and_by_the_character(case: str) -> None:
    name, text, parts = CASES[case]
    assert read_whole_and_cut(name, text) == parts


@pytest.mark.parametrize("name", TEMPLATES)
def test_format_is_found_by_its_template(name: str) -> None:
    assert format_of(name).name == name


@pytest.mark.parametrize("template", ["", "<tool_call>", "{{ tools }}"])
def test_a_template_that_says_nothing_of_tools_has_no_format(template: str) -> None:
    assert find_tool_format(template) is None


def test_mistral_ids_are_nine_letters_or_digits() -> None:
    ids = {format_of("mistral").new_call_id() for _ in range(50)}
    assert len(ids) == 50 and all(len(i) == 9 and i.isalnum() and i.isascii() for i in ids)


REASONING = [
    ("<think>\nWhy?\n</think>\n\nSo.", Thinking.MAYBE, [Reasoning("Why?"), Content("So.")]),
    ("\nWhy <b>?\n</think>So.", Thinking.BEGUN, [Reasoning("Why <b>?"), Content("So.")]),
    ("So. <think>", Thinking.MAYBE, [Content("So. <think>")]),
    (" <thi", Thinking.MAYBE, [Content(" <thi")]),
    ("cut o", Thinking.BEGUN, [Reasoning("cut o")]),
    ("<think></think>", Thinking.NEVER, [Content("<think></think>")]),
    ("<think></think>x", Thinking.MAYBE, [Content("x")]),
    (f"a</think>{HERMES}", Thinking.BEGUN, [Reasoning("a"), *call("weather", JSON_ARGUMENTS)]),
]


@pytest.mark.parametrize(("text", "thinking", "parts"), REASONING)
def test_reasoning_is_set_apart(text: str, thinking: Thinking, parts: list[Part]) -> None:
    assert read_whole_and_cut("hermes", text, thinking) == parts


_SNIPPETS = st.sampled_from(
    [*'{}[]":,; \n\\<>a1', "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<think>"]
    + ["</think>", "<|python_tag|>", "<function=weather>", "<parameter=city>", "<parameter=days>"]
    + ["</parameter>", "</function>", '{"name": "weather"', '"arguments": ', '"parameters": {"x":']
    + [HERMES, CODER, '{"city": 1}', "[CALL_ID]", "é😀"]
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(TEMPLATES)),
    st.sampled_from(Thinking),
    st.lists(_SNIPPETS, max_size=14).map("".join),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_any_text_reads_the_same_however_it_is_cut(
    name: str, thinking: Thinking, text: str, cuts: list[int]
) -> None:
    whole = read_whole_and_cut(name, text, thinking)
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    pieces = [text[a:b] for a, b in zip(places, places[1:], strict=False)]
    assert read_pieces(parser_of(name, thinking), pieces) == whole


@settings(max_examples=200, deadline=None)
@given(st.text(), st.sampled_from(sorted(TEMPLATES)))
def test_text_without_calls_is_content_unchanged(text: str, name: str) -> None:
    assert "".join(part.text for part in read_whole_and_cut(name, text)) == text


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.dictionaries(st.text(max_size=4), _VALUES, max_size=3), max_size=3), st.booleans()
)
def test_json_calls_give_back_their_arguments(calls: list[dict[str, object]], ascii: bool) -> None:
    written = [json.dumps(arguments, ensure_ascii=ascii) for arguments in calls]
    wanted = [part for arguments in written for part in call("weather", arguments)]
    hermes = [f'<tool_call>{{"name": "weather", "arguments": {w}}}</tool_call>' for w in written]
    assert read_whole_and_cut("hermes", "\n".join(hermes)) == wanted
    llama = [f'{{"name": "weather", "parameters": {w}}}' for w in written]
    assert read_whole_and_cut("llama3_json", "; ".join(llama)) == wanted
    mistral = [f'{{"name": "weather", "arguments": {w}}}' for w in written]
    text = f"[TOOL_CALLS][{', '.join(mistral)}]" if calls else ""
    assert read_whole_and_cut("mistral", text) == wanted

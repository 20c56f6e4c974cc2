"""Chat templates: what they are given, and what happens where messages do not fit."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from qoq.server.chat import ChatTemplate
from qoq.server.errors import ApiError
from qoq.server.protocol import ChatMessage
from qoq.server.tokenizer import Tokenizer, TokenizerError


@pytest.fixture
def template_of(checkpoint: Path, tmp_path: Path) -> Any:
    def make(source: str | None) -> ChatTemplate:
        settings = {"bos_token": "<|bos|>", "eos_token": "<|end|>", "chat_template": source}
        (tmp_path / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        return ChatTemplate(Tokenizer.load(tmp_path))

    return make


def message(role: str, content: object) -> ChatMessage:
    return ChatMessage.model_validate({"role": role, "content": content})


def test_renders_messages_and_named_tokens(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(tokenizer)
    messages = [message("developer", "Be brief."), message("user", "Hi")]
    expected = "<|bos|><|system|>Be brief.<|end|><|user|>Hi<|end|>"
    assert template.render(messages, add_generation_prompt=False) == expected
    assert template.render(messages) == expected + "<|assistant|>"


def test_text_parts_become_one_text(tokenizer: Tokenizer) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert "<|user|>one\ntwo<|end|>" in ChatTemplate(tokenizer).render([message("user", parts)])


def test_template_environment(template_of: Any) -> None:
    """Blocks leave no blank lines, JSON is not made safe for HTML, dates and loop controls work."""
    source = (
        "{% for m in messages %}\n  {% if loop.index > 1 %}{% break %}{% endif %}\n"
        "{{ {'a': m.content} | tojson }}\n{% endfor %}\n{{ strftime_now('%Y') }}"
    )
    text = template_of(source).render([message("user", "<é>"), message("user", "x")])
    assert text == f'{{"a": "<é>"}}\n{datetime.now().year}'


@pytest.mark.parametrize(
    "source", ["{{ raise_exception('roles must alternate') }}", "{{ 1 + messages }}", "{{ x.y.z }}"]
)
def test_a_template_that_fails_blames_the_messages(template_of: Any, source: str) -> None:
    with pytest.raises(ApiError) as caught:
        template_of(source).render([message("user", "Hi")])
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_a_template_cannot_reach_out_of_its_sandbox(template_of: Any) -> None:
    with pytest.raises(ApiError, match="unsafe"):
        template_of("{{ ''.__class__.__mro__ }}").render([message("user", "Hi")])


def test_a_model_without_template_says_so(template_of: Any) -> None:
    with pytest.raises(ApiError, match="no chat template"):
        template_of(None).render([message("user", "Hi")])


def test_a_broken_template_is_refused_at_the_start(template_of: Any) -> None:
    with pytest.raises(TokenizerError, match="line 1"):
        template_of("{% for %}")


def test_template_text_gets_no_second_bos(tokenizer: Tokenizer) -> None:
    text = ChatTemplate(tokenizer).render([message("user", "Hi")])
    assert tokenizer.encode(text, add_special_tokens=False).count(256) == 1

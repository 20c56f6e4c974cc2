"""`qoq serve` with a model of random weights: what it says has a form by the server's doing alone.

So each client's own spelling of a schema, or of tools, is one that the grammar holds the model to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from ..engine.talking_model import write_talking_model
from ..server.serve_process import serve_process
from ..server.structured.test_tool_calls import TEMPLATES
from .conftest import with_litellm
from .node_client import NodeClient
from .test_openai import Forecast, Look

USER: Any = {"role": "user", "content": "Go."}
ASK: Any = {"model": "fake", "messages": [USER]}


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("random")
    model = write_talking_model(folder / "model")
    settings = {"eos_token": "<eos>", "chat_template": TEMPLATES["hermes"]}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    flags = ("--precision", "fp32", "--served-model-name", "fake")
    with serve_process(model, folder / "log", *flags) as (_, url):
        yield f"{url}/v1"


@pytest.fixture
def official(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        yield client


def test_openai(official: openai.OpenAI) -> None:
    chat = official.chat.completions.parse(**ASK, response_format=Forecast)
    assert isinstance(chat.choices[0].message.parsed, Forecast)
    response = official.responses.parse(model="fake", input="Go.", text_format=Forecast)
    assert isinstance(response.output_parsed, Forecast)
    called = official.chat.completions.parse(
        **ASK,
        tools=[openai.pydantic_function_tool(Look)],
        tool_choice="required",
        parallel_tool_calls=False,
    )
    (call,) = called.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Look)


def test_node(base_url: str, node: NodeClient) -> None:
    for forecast in node.run(base_url, "parse"):
        Forecast.model_validate(forecast)
    Look.model_validate(node.run(base_url, "required"))


def test_langchain(base_url: str) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="pip install 'qoq[clients]'")
    chat = langchain.ChatOpenAI(model="fake", base_url=base_url, api_key="none")
    for method in ("json_schema", "function_calling"):
        asking = chat.with_structured_output(Forecast, method=method)
        assert isinstance(asking.invoke("Go."), Forecast)
    chat.root_client.close()


@with_litellm
def test_litellm(litellm: Any, base_url: str) -> None:
    whole = litellm.completion(
        model="openai/fake",
        api_base=base_url,
        api_key="none",
        messages=[USER],
        response_format=Forecast,
    )
    Forecast.model_validate_json(whole.choices[0].message.content)


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_instructor(official: openai.OpenAI, mode: str) -> None:
    instructor = pytest.importorskip("instructor", reason="pip install 'qoq[clients]'")
    asking = instructor.from_openai(official, mode=instructor.Mode[mode])
    came = asking.create(**ASK, response_model=Forecast, max_retries=0)
    Forecast.model_validate(came.model_dump())

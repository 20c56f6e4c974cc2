"""Instructor: objects by each of its modes, a second try where one is refused, and parts of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel, field_validator

from .conftest import Host
from .test_openai import FORECAST, Forecast

instructor = pytest.importorskip(
    "instructor", reason="needs instructor: pip install 'qoq[clients]'"
)

ASK: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}
WANTED = {"city": "Bern", "days": [1, 2], "sky": None}
CALL = f'<tool_call>\n{{"name": "Forecast", "arguments": {FORECAST}}}\n</tool_call>'
MODES = {"TOOLS": CALL, "JSON_SCHEMA": FORECAST, "JSON": FORECAST}


@pytest.fixture
def official(host: Host) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=host.base_url, api_key="none", max_retries=0) as client:
        yield client


def asking(official: openai.OpenAI, mode: str) -> Any:
    return instructor.from_openai(official, mode=instructor.Mode[mode])


@pytest.mark.parametrize("mode", MODES)
def test_an_object_comes_back(official: openai.OpenAI, host: Host, mode: str) -> None:
    host.engine.say(MODES[mode])
    came = asking(official, mode).create(**ASK, response_model=Forecast)
    assert came.model_dump() == WANTED
    assert host.engine.requests[-1].sampling.grammar


@pytest.mark.parametrize("mode", MODES)
def test_parts_of_an_object_are_streamed(official: openai.OpenAI, host: Host, mode: str) -> None:
    host.engine.say(MODES[mode])
    parts = list(asking(official, mode).create_partial(**ASK, response_model=Forecast))
    assert len(parts) > 2 and parts[-1].model_dump() == WANTED


def test_objects_of_a_list_are_streamed(official: openai.OpenAI, host: Host) -> None:
    listed = f'{{"tasks": [{FORECAST}, {FORECAST}]}}'
    host.engine.say(CALL.replace(FORECAST, listed).replace("Forecast", "IterableForecast"))
    came = asking(official, "TOOLS").create_iterable(**ASK, response_model=Forecast)
    assert [one.model_dump() for one in came] == [WANTED, WANTED]


@pytest.mark.parametrize("mode", MODES)
def test_a_refused_object_is_asked_for_again(
    official: openai.OpenAI, host: Host, mode: str
) -> None:
    """The answer and the complaint go back to the model, in the form that each mode gives them."""

    class Forecast(BaseModel):
        city: str
        days: list[int]
        sky: str | None

        @field_validator("city")
        @classmethod
        def _is_zurich(cls, city: str) -> str:
            if len(host.calls) < 2:
                raise ValueError("not Zurich")
            return city

    host.engine.say(MODES[mode])
    came = asking(official, mode).create(**ASK, response_model=Forecast, max_retries=2)
    assert came.city == "Bern" and len(host.calls) == 2
    assert "not Zurich" in host.prompt()


async def test_the_responses_api_and_async(host: Host) -> None:
    host.engine.say(CALL)
    async with openai.AsyncOpenAI(base_url=host.base_url, api_key="none") as official:
        client = instructor.from_openai(official, mode=instructor.Mode.RESPONSES_TOOLS)
        came = await client.responses.create(model="fake", input="Hi", response_model=Forecast)
    assert came.model_dump() == WANTED

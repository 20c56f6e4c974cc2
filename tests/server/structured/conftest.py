"""The application on a real engine process, with a tiny random model that speaks in bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from qoq.engine.config import EngineConfig
from qoq.engine.process_client import ProcessClient
from qoq.server.app import build_app
from qoq.server.config import ServerConfig
from qoq.server.tokenizer import Tokenizer

from ...engine.talking_model import write_talking_model

PLAIN = "{% for message in messages %}{{ message.content }}\n{% endfor %}"


@pytest.fixture(scope="session")
def talking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_talking_model(tmp_path_factory.mktemp("talking") / "dense")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def talking_engine(talking_model: Path) -> AsyncIterator[ProcessClient]:
    engine = ProcessClient(EngineConfig(model=talking_model, num_threads=1))
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture(scope="module")
def talker_with(
    talking_model: Path, talking_engine: ProcessClient
) -> Callable[[str], httpx.AsyncClient]:
    """A client of the application with that chat template."""
    config = ServerConfig(engine=EngineConfig(model=talking_model, num_threads=1))

    def build(template: str) -> httpx.AsyncClient:
        settings = {"bos_token": "<bos>", "eos_token": "<eos>", "chat_template": template}
        (talking_model / "tokenizer_config.json").write_text(json.dumps(settings))
        app = build_app(talking_engine, Tokenizer.load(talking_model), config)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://qoq")

    return build


@pytest.fixture(scope="module")
def talker(talker_with: Callable[[str], httpx.AsyncClient]) -> httpx.AsyncClient:
    return talker_with(PLAIN)

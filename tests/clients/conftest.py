"""A server on a socket that says what a test wants, for clients that others wrote."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from qoq.engine.config import EngineConfig
from qoq.server import errors, load
from qoq.server.app import build_app
from qoq.server.config import ServerConfig
from qoq.server.tokenizer import Tokenizer

from ..server.conftest import FakeEngine, byte_level_core, served, wait_until
from ..server.tools.test_chat_tools import THINKING
from .node_client import NodeClient

__all__ = ["wait_until"]
MAX_REQUESTS = 2

with_litellm = pytest.mark.filterwarnings("ignore:Item 'summary' on TypedDict:UserWarning")


@dataclass
class Host:
    """The application, what calls came (their paths), and the engine, not ready for the first."""

    app: ASGIApp
    engine: FakeEngine
    num_refused: int = 0
    calls: list[str] = field(default_factory=list)
    url: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.calls.append(scope["path"])
            self.engine.is_ready = len(self.calls) > self.num_refused
        await self.app(scope, receive, send)

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def prompt(self) -> str:
        """The latest request's, without special tokens."""
        return bytes(t for t in self.engine.requests[-1].prompt_token_ids if t < 256).decode()


@pytest.fixture
def engine() -> FakeEngine:
    engine = FakeEngine()
    engine.info = replace(engine.info, max_model_len=4096)
    return engine


@pytest.fixture
def template() -> str:
    """With tools and reasoning."""
    return THINKING


@pytest.fixture
def host(
    engine: FakeEngine, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    """Who is told to come back may do so after a second."""
    monkeypatch.setattr(errors, "RETRY_AFTER_S", 1)
    monkeypatch.setattr(load, "RETRY_AFTER_S", 1)
    byte_level_core().save(str(tmp_path / "tokenizer.json"))
    settings = {"bos_token": "<|bos|>", "eos_token": "<|end|>", "chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    config = ServerConfig(
        engine=EngineConfig(model=Path("models/fake"), max_num_seqs=16), max_requests=MAX_REQUESTS
    )
    host = Host(build_app(engine, Tokenizer.load(tmp_path), config), engine)
    with served(host) as host.url:
        yield host


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> NodeClient:
    return NodeClient.install(tmp_path_factory.mktemp("node"))


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Importing it would fetch a table of prices. It leaves sockets and event loops open."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm", reason="needs litellm: pip install 'qoq[clients]'")
    yield litellm
    litellm.in_memory_llm_clients_cache.flush_cache()
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()

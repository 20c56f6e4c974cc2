"""The application with a chat template of the tests' choice, on the fake engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from qoq.server.app import build_app
from qoq.server.config import ServerConfig
from qoq.server.tokenizer import Tokenizer


@pytest.fixture
def client_with(
    checkpoint: Path, tmp_path: Path, engine: Any, config: ServerConfig
) -> Callable[[str], httpx.AsyncClient]:
    def build(template: str) -> httpx.AsyncClient:
        (tmp_path / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
        settings = {"bos_token": "<|bos|>", "eos_token": "<|end|>", "chat_template": template}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        app = build_app(engine, Tokenizer.load(tmp_path), config)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://qoq")

    return build

"""A fake engine, a tokenizer of single bytes, and the application on top of them."""

import asyncio
import json
import math
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import tokenizers
import uvicorn
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from qoq.engine.config import EngineConfig
from qoq.engine.protocol import (
    EngineDeadError,
    EngineHealth,
    EngineInfo,
    EngineStats,
    Extras,
    FinishReason,
    GenerateRequest,
    TokenLogprobs,
    TokenOutput,
)
from qoq.server.app import build_app
from qoq.server.config import ServerConfig
from qoq.server.tokenizer import Tokenizer

CHATML = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class FakeEngine:
    """Says ``reply`` to every request, over and over, until a stop token or ``max_tokens``."""

    def __init__(self) -> None:
        self.info = EngineInfo(
            model="fake",
            max_model_len=256,
            vocab_size=260,
            eos_token_ids=(257,),
            bos_token_id=256,
            num_blocks=64,
            block_size=16,
            precision="w4a8kv4",
            device="cpu",
        )
        self.reply: list[int] = list(b"Hello there")
        self.tokens_per_output = 1
        self.delay_s = 0.0
        self.num_cached_tokens = 0
        self.replies: dict[int, list[int]] = {}
        self.dies_at: int | None = None
        self.is_ready = True
        self.cause: str | None = None
        self.counters = EngineStats()
        self.refusal: str | None = None
        self.requests: list[GenerateRequest] = []
        self.running: set[str] = set()
        self.aborted: list[str] = []

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenOutput, None]:
        self.requests.append(request)
        self.running.add(request.request_id)
        started_s, is_done = time.monotonic(), False
        try:
            if self.refusal:
                raise ValueError(self.refusal)
            for tokens, reason in self._steps(request):
                await asyncio.sleep(self.delay_s)
                is_done = reason is not None
                yield TokenOutput(
                    request_id=request.request_id,
                    token_ids=tokens,
                    finish_reason=reason,
                    time_s=time.monotonic(),
                    scheduled_s=started_s,
                    num_cached_tokens=self.num_cached_tokens,
                    extras=self._extras(request, tokens),
                )
        except (EngineDeadError, ValueError):
            is_done = True
            raise
        finally:
            self.running.discard(request.request_id)
            if not is_done:
                await self.abort(request.request_id)

    def _steps(self, request: GenerateRequest) -> Iterator[tuple[list[int], FinishReason | None]]:
        step: list[int] = []
        reply = self.replies.get(request.sampling.seed, self.reply)
        for place in range(request.sampling.max_tokens):
            if place == self.dies_at:
                self.cause = "the engine process was killed by signal 9"
                raise EngineDeadError(self.cause)
            step.append(reply[place % len(reply)])
            reason = None
            if place + 1 == request.sampling.max_tokens:
                reason = FinishReason.LENGTH
            if step[-1] in request.sampling.stop_token_ids:
                reason = FinishReason.STOP
            if reason or len(step) == self.tokens_per_output:
                yield step, reason
                step = []
            if reason:
                return

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    def health(self) -> EngineHealth:
        return EngineHealth(
            is_ready=self.is_ready and not self.cause, is_healthy=not self.cause, cause=self.cause
        )

    def stats(self) -> EngineStats:
        return replace(self.counters, num_running=len(self.running))

    def logprob(self, token_id: int) -> float:
        """The same wherever the token comes; less likely the larger it is."""
        return -(token_id + 1) / 512

    def embedding(self, prompt: list[int]) -> list[float]:
        length = math.hypot(len(prompt), prompt[0], 1)
        return [len(prompt) / length, prompt[0] / length, 1 / length]

    def say_by_seed(self, texts: dict[int, str]) -> None:
        self.replies = {seed: [*text.encode(), 257] for seed, text in texts.items()}

    def _extras(self, request: GenerateRequest, tokens: list[int]) -> Extras | None:
        sampling, prompt = request.sampling, request.prompt_token_ids[1:]
        num_top, num_prompt_top = sampling.logprobs, sampling.prompt_logprobs
        if sampling.pooling is not None:
            return Extras(embedding=self.embedding(request.prompt_token_ids))
        if num_top is None and num_prompt_top is None:
            return None
        return Extras(
            logprobs=None if num_top is None else [self._logprobs(t, num_top) for t in tokens],
            prompt_logprobs=None
            if num_prompt_top is None
            else [self._logprobs(t, num_prompt_top) for t in prompt],
        )

    def _logprobs(self, token_id: int, num_top: int) -> TokenLogprobs:
        top = range(token_id, token_id + num_top)
        return TokenLogprobs(
            token_id, self.logprob(token_id), 1, list(top), [self.logprob(t) for t in top]
        )

    def say(self, text: str) -> None:
        """The reply is this text and then the end-of-sequence token."""
        self.reply = [*text.encode(), 257]


def byte_level_core() -> tokenizers.Tokenizer:
    """Token id = byte, then three special tokens and one that is added but not special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    vocab = {chr(byte): byte for byte in printable}
    vocab |= {chr(0x100 + place): byte for place, byte in enumerate(others)}
    assert sorted(vocab) == alphabet
    core = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = ["<|bos|>", "<|end|>", "<|user|>"]
    core.add_special_tokens([AddedToken(text, special=True) for text in specials])
    core.add_tokens([AddedToken("<tool call>")])
    return core


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    byte_level_core().save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|bos|>", "eos_token": "<|end|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.load(checkpoint)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def config() -> ServerConfig:
    return ServerConfig(
        engine=EngineConfig(model=Path("models/fake"), max_num_seqs=16), max_body_bytes=100_000
    )


@pytest.fixture
async def client(
    engine: FakeEngine, tokenizer: Tokenizer, config: ServerConfig
) -> AsyncIterator[httpx.AsyncClient]:
    """Calls the application in this event loop, without a socket."""
    app = build_app(engine, tokenizer, config)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://qoq") as client:
        yield client


@contextmanager
def served(app: object) -> Iterator[str]:
    server = uvicorn.Server(
        uvicorn.Config(
            app, host="127.0.0.1", port=0, log_level="warning", ws="none", loop="asyncio"
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
        assert thread.is_alive(), "the server did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture
def url(engine: FakeEngine, tokenizer: Tokenizer, config: ServerConfig) -> Iterator[str]:
    """A real uvicorn with the application, on a port of its own."""
    with served(build_app(engine, tokenizer, config)) as address:
        yield address


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, "it did not happen in time"
            time.sleep(0.005)

    return wait

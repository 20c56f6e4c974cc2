"""An engine that computes nothing: each step gives every request a token, as a real one's message.

What it spends is what a step costs the server's process: decoding the message, and handing it on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import msgspec

from qoq.engine.mailbox import Mailbox
from qoq.engine.messages import FromEngine, StepOutputs
from qoq.engine.process_client import token_outputs
from qoq.engine.protocol import (
    EngineHealth,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerateRequest,
    TokenOutput,
)


class SteppingEngine:
    """Makes ``tokens_per_s`` over all requests together; None is a step for every pass of the loop.

    Steps that are due come in one go, as messages that wait in a socket do.
    """

    def __init__(self, tokens_per_s: float | None = None) -> None:
        self.info = EngineInfo(
            model="fake",
            max_model_len=2**20,
            vocab_size=260,
            eos_token_ids=(257,),
            bos_token_id=256,
            num_blocks=2**16,
            block_size=16,
            precision="w4a8kv4",
            device="cpu",
        )
        self._tokens_per_s = tokens_per_s
        self._mailboxes: dict[str, Mailbox] = {}
        self._num_left: dict[str, int] = {}
        self._stepping: asyncio.Task[None] | None = None
        self._decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenOutput, None]:
        mailbox = self._mailboxes[request.request_id] = Mailbox()
        self._num_left[request.request_id] = request.sampling.max_tokens
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._run())
        try:
            while True:
                output = await mailbox.get()
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            self._mailboxes.pop(request.request_id, None)

    async def _run(self) -> None:
        last_s = time.monotonic()
        while self._mailboxes:
            await asyncio.sleep(0)
            if self._tokens_per_s is None:
                self._deliver()
                continue
            step_s = len(self._mailboxes) / self._tokens_per_s
            while self._mailboxes and last_s + step_s <= time.monotonic():
                last_s += step_s
                self._deliver()

    def _deliver(self) -> None:
        message = msgspec.msgpack.encode(self._step())
        for output in token_outputs(self._decoder.decode(message)):
            self._mailboxes[output.request_id].put(output)
            if output.finish_reason is not None:
                del self._mailboxes[output.request_id]

    def _step(self) -> StepOutputs:
        ids = list(self._mailboxes)
        for request_id in ids:
            self._num_left[request_id] -= 1
        ended = [self._num_left[request_id] == 0 for request_id in ids]
        now_s = time.monotonic()
        return StepOutputs(
            time_s=now_s,
            stats=EngineStats(),
            request_ids=ids,
            token_ids=[97 + self._num_left[request_id] % 26 for request_id in ids],
            finish_reasons=[FinishReason.LENGTH if end else None for end in ended],
            scheduled_s=[now_s] * len(ids),
            num_cached_tokens=[0] * len(ids),
        )

    async def abort(self, request_id: str) -> None:
        self._mailboxes.pop(request_id, None)

    def health(self) -> EngineHealth:
        return EngineHealth(is_ready=True, is_healthy=True)

    def stats(self) -> EngineStats:
        return EngineStats()

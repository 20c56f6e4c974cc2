"""Sends one streaming request and keeps the pieces of the answer. A failure is not raised; it is
part of the record."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from qoq.loadtest.answer import BadAnswer
from qoq.loadtest.exchange import exchange
from qoq.loadtest.http_reply import HttpReply
from qoq.loadtest.reader import AnswerReader
from qoq.loadtest.record import Outcome, Record
from qoq.loadtest.workload import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go. ``timeout_s`` bounds one request, connecting included."""

    base_url: str
    model: str = ""
    endpoint: str = "chat/completions"
    api_key: str | None = None
    timeout_s: float = 120.0

    def url(self, path: str) -> str:
        return f"{self.base_url.rstrip('/')}/v1/{path}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}


@dataclass(slots=True, kw_only=True)
class Received:
    """``pieces`` of an answer, with their times. ``sent_s`` None: the job was not sent.

    ``error`` says why nothing, or nothing more, came.
    """

    job: Job
    due_s: float = 0.0
    sent_s: float | None = None
    ended_s: float = 0.0
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    error: str | None = None

    def read(self) -> Record:
        record = Record(index=self.job.index, due_s=self.due_s, error=self.error)
        if self.sent_s is None:
            return record
        record.sent_s, record.ended_s = self.sent_s, self.ended_s
        reader = AnswerReader(self.job.leave_after)
        try:
            for piece in self.pieces:
                if reader.take(*piece):
                    break
            record.outcome, record.error = reader.outcome(self.error), None
        except BadAnswer as problem:
            record.outcome, record.error = Outcome.FAILED, str(problem)
        record.events = reader.answer.events()
        record.prompt_tokens = reader.answer.prompt_tokens
        record.output_tokens = reader.answer.output_tokens
        return record


async def send(target: Target, job: Job) -> Received:
    received = Received(job=job, sent_s=time.monotonic())
    leaver = None if job.leave_after is None else AnswerReader(job.leave_after)

    def take(time_s: float, data: bytes) -> bool:
        received.pieces.append((time_s, data))
        try:
            return leaver is not None and leaver.take(time_s, data)
        except BadAnswer:
            return True

    headers = {"content-type": "application/json", **target.headers}
    body = json.dumps(_body(target, job)).encode()
    try:
        async with asyncio.timeout(target.timeout_s):
            await exchange("POST", target.url(target.endpoint), headers, body, take)
    except TimeoutError:
        received.error = f"no end within {target.timeout_s:g} s"
    except OSError as problem:
        received.error = f"{type(problem).__name__}: {problem}"
    received.ended_s = time.monotonic()
    return received


async def first_model(target: Target) -> str:
    """Raises OSError, BadAnswer."""
    reply, body = HttpReply(), bytearray()

    def take(time_s: float, data: bytes) -> None:
        body.extend(reply.add(data))

    async with asyncio.timeout(target.timeout_s):
        await exchange("GET", target.url("models"), target.headers, b"", take)
    try:
        return str(json.loads(body)["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        raise BadAnswer(
            f"status {reply.status}, no list of models: {bytes(body[:300])!r}"
        ) from None


def _body(target: Target, job: Job) -> dict[str, Any]:
    """``ignore_eos`` is an extension that engines share: the answer has the length asked for."""
    body: dict[str, Any] = {
        "model": target.model,
        "max_tokens": job.output_len,
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if target.endpoint == "chat/completions":
        return body | {"messages": [{"role": "user", "content": job.prompt}]}
    return body | {"prompt": job.prompt}

"""Sends one streaming request and notes when each piece of the answer came. A failure is not
raised; it is part of the record."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from qoq.loadtest.answer import Answer, BadAnswer, server_sent_events
from qoq.loadtest.record import Outcome, Record
from qoq.loadtest.workload import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go. ``timeout_s`` bounds one request, connecting included."""

    base_url: str
    model: str
    endpoint: str = "chat/completions"
    timeout_s: float = 120.0


def connect(api_key: str | None = None) -> httpx.AsyncClient:
    """A connection for each request, as many as there are requests, and no proxy in between.

    A pool would make requests wait for one another inside the client, and a connection that is
    used again may turn out closed, which would count as the server's error.
    """
    return httpx.AsyncClient(
        headers={"authorization": f"Bearer {api_key}"} if api_key else {},
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        timeout=None,
        trust_env=False,
    )


async def first_model(http: httpx.AsyncClient, base_url: str, timeout_s: float) -> str:
    response = await http.get(f"{base_url.rstrip('/')}/v1/models", timeout=timeout_s)
    response.raise_for_status()
    return str(response.json()["data"][0]["id"])


async def send(http: httpx.AsyncClient, target: Target, job: Job) -> Record:
    answer = Answer()
    outcome, error, ended_s = Outcome.FAILED, None, None
    sent_s = time.monotonic()
    try:
        async with asyncio.timeout(target.timeout_s), _post(http, target, job) as response:
            outcome = await _read(response, answer, job.leave_after)
            ended_s = time.monotonic()
    except TimeoutError:
        error = f"no end within {target.timeout_s:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, BadAnswer) as problem:
        error = f"{type(problem).__name__}: {problem}"
    return Record(
        index=job.index,
        outcome=outcome,
        sent_s=sent_s,
        ended_s=ended_s or time.monotonic(),
        events=answer.events(),
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        error=error,
    )


def _post(
    http: httpx.AsyncClient, target: Target, job: Job
) -> AbstractAsyncContextManager[httpx.Response]:
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
        body["messages"] = [{"role": "user", "content": job.prompt}]
    else:
        body["prompt"] = job.prompt
    return http.stream("POST", f"{target.base_url.rstrip('/')}/v1/{target.endpoint}", json=body)


async def _read(response: httpx.Response, answer: Answer, leave_after: int | None) -> Outcome:
    """Read to the end, or leave early: the caller's `async with` then closes the connection."""
    if response.status_code != 200:
        body = (await response.aread()).decode(errors="replace")
        raise BadAnswer(f"status {response.status_code}: {body[:300]}")
    if leave_after == 0:
        return Outcome.LEFT
    async with aclosing(server_sent_events(response.aiter_bytes())) as events:
        async for data in events:
            if data == b"[DONE]":
                return _finished(answer)
            answer.take(data, time.monotonic())
            if leave_after is not None and len(answer.times_s) >= leave_after:
                return Outcome.LEFT
    raise BadAnswer("the stream broke off before [DONE]")


def _finished(answer: Answer) -> Outcome:
    if not answer.has_finish_reason:
        raise BadAnswer("the stream ended without a finish reason")
    return Outcome.FINISHED

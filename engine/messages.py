"""What crosses between the server's process and the engine's: msgspec structs over ZeroMQ."""

from __future__ import annotations

import msgspec

from qoq.engine.protocol import EngineInfo, EngineStats, FinishReason, GenerateRequest


class Add(msgspec.Struct, tag=True, frozen=True):
    request: GenerateRequest


class Abort(msgspec.Struct, tag=True, frozen=True):
    request_ids: list[str]


class Shutdown(msgspec.Struct, tag=True, frozen=True):
    pass


class Ready(msgspec.Struct, tag=True, frozen=True):
    info: EngineInfo


class Rejected(msgspec.Struct, tag=True, frozen=True):
    """A request that can never run; nothing of it is left in the engine."""

    request_id: str
    message: str


class StepOutputs(msgspec.Struct, tag=True, frozen=True):
    """One step: parallel arrays, one entry a request that got a token or ended.

    ``token_ids`` has -1 where a request ended without a token. ``time_s`` is when the step ended.
    """

    time_s: float
    stats: EngineStats
    request_ids: list[str]
    token_ids: list[int]
    finish_reasons: list[FinishReason | None]
    scheduled_s: list[float | None]
    num_cached_tokens: list[int]


class Heartbeat(msgspec.Struct, tag=True, frozen=True):
    """Sent about once a second. ``busy_since_s`` is when the running step began, None if idle."""

    busy_since_s: float | None


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The last message of an engine that gives up; ``cause`` is for the user.

    ``is_setup`` says that it never came up because of what it was told to load.
    """

    cause: str
    is_setup: bool


ToEngine = Add | Abort | Shutdown
FromEngine = Ready | Rejected | StepOutputs | Heartbeat | Failed

"""What crosses between the server's processes and the engine's: msgspec structs over ZeroMQ."""

from __future__ import annotations

import msgspec

from qoq.engine.protocol import (
    EngineHealth,
    EngineInfo,
    EngineStats,
    Extras,
    FinishReason,
    GenerateRequest,
    TokenOutput,
)


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
    ``extras`` has an entry, by its place in the arrays, for a request that asked for more.
    """

    time_s: float
    stats: EngineStats
    request_ids: list[str]
    token_ids: list[int]
    finish_reasons: list[FinishReason | None]
    scheduled_s: list[float | None]
    num_cached_tokens: list[int]
    extras: dict[int, Extras] = {}


class Heartbeat(msgspec.Struct, tag=True, frozen=True):
    """Sent about once a second. ``busy_since_s`` is when the running step began, None if idle."""

    busy_since_s: float | None


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The last message of an engine that gives up; ``cause`` is for the user.

    ``is_setup`` says that it never came up because of what it was told to load.
    """

    cause: str
    is_setup: bool


class Hello(msgspec.Struct, tag=True, frozen=True):
    """An API process's first message to the relay."""


class RelayedOutputs(msgspec.Struct, tag=True, frozen=True):
    """What came at one time for the requests of one API process."""

    outputs: list[TokenOutput]


class RelayedFailure(msgspec.Struct, tag=True, frozen=True):
    """The end of a request. ``is_refusal``: the request is at fault, not the engine."""

    request_id: str
    message: str
    is_refusal: bool


class RelayedState(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """``info`` is None until the engine has come up."""

    health: EngineHealth
    info: EngineInfo | None
    stats: EngineStats


ToRelay = Add | Abort | Hello
ToApiProcess = RelayedOutputs | RelayedFailure | RelayedState
ToEngine = Add | Abort | Shutdown
FromEngine = Ready | Rejected | StepOutputs | Heartbeat | Failed

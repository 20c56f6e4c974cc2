"""The engine's own process: an input thread, the step loop, an output thread.

Idle, all three are blocked on a queue or a socket; the output thread wakes once a second to say
that the process lives, and to see that its parent does.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import zmq

from qoq.engine.build import build_engine, runs_on_gpu
from qoq.engine.config import EngineConfig
from qoq.engine.engine import Engine
from qoq.engine.heap import spare_collector
from qoq.engine.messages import (
    Abort,
    Add,
    Failed,
    FromEngine,
    Heartbeat,
    Ready,
    Rejected,
    Shutdown,
    StepOutputs,
    ToEngine,
)
from qoq.engine.protocol import EngineStats, GenerateRequest
from qoq.scheduler.batch import RequestOutput
from qoq.scheduler.request import Request

HEARTBEAT_S = 1.0
# Where it computes on the CPU: the server's process needs that seldom and shortly, and first.
NICENESS = 5
# Where it does not: the step loop is Python for half of a step, and so long would tokens of the
# step before wait in the output thread. By default this is 5 ms.
SWITCH_INTERVAL_S = 0.0005

logger = logging.getLogger(__name__)


def run_process(config: EngineConfig, inbox_address: str, outbox_address: str) -> None:
    """Serve until told to shut down. The entry point of the spawned process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s engine: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent decides
    outbox = _Outbox(outbox_address)
    try:
        if runs_on_gpu(config):
            sys.setswitchinterval(SWITCH_INTERVAL_S)
        else:
            os.nice(NICENESS)
        engine, info = build_engine(config)
    except (ValueError, OSError, RuntimeError) as error:
        outbox.close(Failed(_first_line(error), is_setup=True))
        return
    inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(inbox_address, inbox, engine), daemon=True).start()
    spare_collector()
    outbox.put(Ready(info))
    try:
        _Loop(engine, inbox, outbox).run()
    except Exception as error:
        logger.exception("the step loop failed")
        outbox.close(Failed(f"{type(error).__name__}: {_first_line(error)}", is_setup=False))
    else:
        outbox.close(Failed("shut down", is_setup=False))
    engine.close()


def _first_line(error: Exception) -> str:
    """What CUDA's errors say; how to debug them follows, and is in the log."""
    return str(error).partition("\n")[0]


@dataclass(slots=True)
class _Loop:
    engine: Engine
    inbox: queue.SimpleQueue[ToEngine]
    outbox: _Outbox

    def run(self) -> None:
        """Take what has arrived, step, send; blocked on the inbox while there is nothing to do."""
        while self._take_messages():
            self.outbox.busy_since_s = time.monotonic()
            outputs = self.engine.step()
            self.outbox.busy_since_s = None
            if outputs:
                self.outbox.put(_step_outputs(outputs, self.engine.stats()))

    def _take_messages(self) -> bool:
        """Apply all messages; waits for the first while idle. False once told to shut down."""
        while not (self.inbox.empty() and self.engine.has_work):
            message = self.inbox.get()
            if isinstance(message, Shutdown):
                return False
            self._apply(message)
        return True

    def _apply(self, message: Add | Abort) -> None:
        if isinstance(message, Abort):
            for request_id in message.request_ids:
                self.engine.abort(request_id)
            return
        try:
            self.engine.add(_request(message.request))
        except ValueError as error:
            self.outbox.put(Rejected(message.request.request_id, str(error)))


class _Outbox:
    """A queue of messages and the thread that encodes and sends them, heartbeats in between."""

    def __init__(self, address: str) -> None:
        self.busy_since_s: float | None = None
        self._parent = os.getppid()
        self._queue: queue.SimpleQueue[FromEngine] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, args=(address,), daemon=True)
        self._thread.start()

    def put(self, message: FromEngine) -> None:
        self._queue.put(message)

    def close(self, last: Failed) -> None:
        """Send what is queued and then ``last``."""
        self._queue.put(last)
        self._thread.join()

    def _send(self, address: str) -> None:
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
        socket.set_hwm(0)  # the step loop must not wait for a slow reader
        socket.connect(address)
        encode = msgspec.msgpack.Encoder().encode
        last_beat_s = 0.0
        while True:
            try:
                message = self._queue.get(timeout=HEARTBEAT_S)
            except queue.Empty:
                message = None
            if message is not None:
                socket.send(encode(message))
            if isinstance(message, Failed):
                socket.close(linger=1000)
                return
            if time.monotonic() - last_beat_s >= HEARTBEAT_S:
                last_beat_s = time.monotonic()
                socket.send(encode(Heartbeat(self.busy_since_s)))
                if os.getppid() != self._parent:
                    os._exit(1)  # orphaned: nobody reads what would be computed


def _receive(address: str, inbox: queue.SimpleQueue[ToEngine], engine: Engine) -> None:
    """Also compiles grammars, so that the step loop, which does so again, finds them compiled."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
    socket.connect(address)
    decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
    while True:
        message = decoder.decode(socket.recv())
        if isinstance(message, Add):
            with suppress(ValueError):  # the step loop gets it too, and answers
                engine.prepare(message.request.sampling)
        inbox.put(message)


def _request(request: GenerateRequest) -> Request:
    return Request(
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        sampling=request.sampling,
        priority=request.priority,
        arrival_s=request.arrival_s,
        cache_salt=request.cache_salt,
    )


def _step_outputs(outputs: list[RequestOutput], stats: EngineStats) -> StepOutputs:
    return StepOutputs(
        time_s=time.monotonic(),
        stats=stats,
        request_ids=[output.request_id for output in outputs],
        token_ids=[output.token_ids[0] if output.token_ids else -1 for output in outputs],
        finish_reasons=[output.finish_reason for output in outputs],
        scheduled_s=[output.scheduled_s for output in outputs],
        num_cached_tokens=[output.num_cached_tokens for output in outputs],
        extras={i: output.extras for i, output in enumerate(outputs) if output.extras},
    )

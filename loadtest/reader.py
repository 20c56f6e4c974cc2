"""From the bytes of an answer to how it ended and what it said."""

from __future__ import annotations

from qoq.loadtest.answer import Answer, BadAnswer, ServerSentEvents
from qoq.loadtest.http_reply import HttpReply
from qoq.loadtest.record import Outcome


class AnswerReader:
    """``leave_after``: how many token events are enough; 0: the head is. None reads to the end."""

    def __init__(self, leave_after: int | None) -> None:
        self.answer = Answer()
        self._leave_after = leave_after
        self._reply = HttpReply()
        self._events = ServerSentEvents()
        self._refusal = b""
        self._is_done = False

    def take(self, time_s: float, data: bytes) -> bool:
        """Whether that is enough. Raises BadAnswer for what no stream of ours contains."""
        body = self._reply.add(data)
        if self._reply.status != 200:
            self._refusal += body
            return False
        for event in self._events.add(body):
            if event == b"[DONE]":
                self._is_done = True
            else:
                self.answer.take(event, time_s)
            if self._is_enough():
                return True
        return self._is_enough()

    def outcome(self, error: str | None) -> Outcome:
        """``error`` is what broke the connection, if anything. Raises BadAnswer."""
        if self._reply.status not in (0, 200):
            refusal = self._refusal.decode(errors="replace")
            raise BadAnswer(f"status {self._reply.status}: {refusal[:300]}")
        if not self._is_enough():
            raise BadAnswer(error or "the stream broke off before [DONE]")
        if not self._is_done:
            return Outcome.LEFT
        if not self.answer.has_finish_reason:
            raise BadAnswer("the stream ended without a finish reason")
        return Outcome.FINISHED

    def _is_enough(self) -> bool:
        is_leaving = self._leave_after is not None and (
            len(self.answer.times_s) >= self._leave_after
        )
        return self._is_done or (self._reply.status == 200 and is_leaving)

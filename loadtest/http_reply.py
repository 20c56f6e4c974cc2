"""The bytes of an HTTP/1.1 reply, in whatever pieces they came, to a status and a body."""

from __future__ import annotations

from qoq.loadtest.answer import BadAnswer


class HttpReply:
    """``status`` 0 until the head is there. The body ends where the connection does."""

    def __init__(self) -> None:
        self.status = 0
        self._is_chunked = False
        self._rest = b""

    def add(self, data: bytes) -> bytes:
        """What of the body is new. Raises BadAnswer for what is no HTTP."""
        data = self._rest + data
        if not self.status:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = head
                return b""
            self._read_head(head)
        body, self._rest = _join_chunks(data) if self._is_chunked else (data, b"")
        return body

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        version, _, status = first.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not status[:3].isdigit():
            raise BadAnswer(f"not an HTTP/1.1 reply: {first[:100]!r}")
        self.status = int(status[:3])
        fields = [line.lower().replace(b" ", b"") for line in lines]
        self._is_chunked = b"transfer-encoding:chunked" in fields


def _join_chunks(data: bytes) -> tuple[bytes, bytes]:
    """Those that are whole, and what is left over."""
    chunks, start = [], 0
    while (line_end := data.find(b"\r\n", start)) >= 0:
        size = data[start:line_end].partition(b";")[0]
        first = line_end + 2
        try:
            end = first + int(size, 16)
        except ValueError:
            raise BadAnswer(f"not the size of a chunk: {size[:100]!r}") from None
        if len(data) < end + 2:
            break
        chunks.append(data[first:end])
        start = end + 2
    return b"".join(chunks), data[start:]

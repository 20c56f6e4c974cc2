"""Replies in any pieces, with and without chunks, and what is no reply."""

import pytest

from qoq.loadtest.answer import BadAnswer
from qoq.loadtest.http_reply import HttpReply

BODY = b"data: a\r\n\r\ndata: b\n\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + BODY
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"b\r\ndata: a\r\n\r\n\r\n9;x=y\r\ndata: b\n\n\r\n0\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("reply", [PLAIN, CHUNKED], ids=["plain", "chunked"])
def test_the_body_does_not_depend_on_the_pieces(reply: bytes, size: int) -> None:
    reading = HttpReply()
    parts = [reading.add(reply[i : i + size]) for i in range(0, len(reply), size)]
    assert b"".join(parts) == BODY
    assert reading.status == 200


def test_a_chunk_comes_as_soon_as_it_is_whole() -> None:
    reading = HttpReply()
    head, first, rest = CHUNKED[: CHUNKED.index(b"b\r\n")], b"b\r\ndata: a\r\n\r\n", b"\r\n"
    assert [reading.add(part) for part in (head, first, rest)] == [b"", b"", b"data: a\r\n\r\n"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP/1.1 reply: b'SSH-2.0-OpenSSH'"),
        (b"HTTP/1.1 what\r\n\r\n", "not an HTTP/1.1 reply"),
        (CHUNKED.replace(b"b\r\ndata", b"?\r\ndata", 1), "not the size of a chunk"),
    ],
    ids=["protocol", "status", "chunk"],
)
def test_what_is_no_reply_is_an_error(reply: bytes, reason: str) -> None:
    with pytest.raises(BadAnswer, match=reason):
        HttpReply().add(reply)

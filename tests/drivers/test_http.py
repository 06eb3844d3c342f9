"""Responses of machines' web interfaces, whole and in pieces: never a body that was cut."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.connection import Endpoint
from drivers.http import HttpAnswer, Request, Response, wire

PORT = Endpoint(name="x", host="10.0.0.1", port=80, connect_s=1.0, call_s=1.0, max_bytes=1000)
GET = Request(path="/cgi-bin/summary.cgi?x=1")
BODY = b'{"STATUS":[{"STATUS":"S"}]}'
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: text/json\r\nContent-Length: 27\r\n\r\n" + BODY
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"9\r\n" + BODY[:9] + b"\r\n12;x=y\r\n" + BODY[9:] + b"\r\n0\r\n\r\n"
)
UNTIL_CLOSED = b"HTTP/1.0 200\r\nServer: lighttpd\r\n\r\n" + BODY
GOES_ON = b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH


def taken(said: bytes, *, ended: bool = True) -> Response | None:
    return HttpAnswer()(bytearray(said), ended)


@pytest.mark.parametrize("said", [LENGTH, CHUNKED, UNTIL_CLOSED, GOES_ON])
def test_a_whole_response(said) -> None:
    response = taken(said)
    assert response is not None
    assert (response.status, response.body) == (200, BODY)


@pytest.mark.parametrize("said", [LENGTH, CHUNKED, GOES_ON])
def test_one_that_says_its_end_needs_no_end_of_the_connection(said) -> None:
    response = taken(said + b"more than that", ended=False)
    assert response is not None
    assert response.body == BODY


@pytest.mark.parametrize("said", [LENGTH, CHUNKED, GOES_ON])
def test_it_comes_byte_by_byte(said) -> None:
    take, received, found = HttpAnswer(), bytearray(), []
    for byte in said:
        received.append(byte)
        found.append(take(received, False))
    first = next(response for response in found if response is not None)
    assert first.body == BODY
    assert found.index(first) >= len(said) - 3  # the blank line after the last chunk says nothing


@given(st.sampled_from([LENGTH, CHUNKED]), st.data())
def test_one_that_was_cut_is_none(said, data) -> None:
    cut = said[: data.draw(st.integers(1, len(said) - 6))]
    with pytest.raises(ValueError, match=r"cut"):
        taken(cut)


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\x01\x02",
        b"SSH-2.0-dropbear\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 twohundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x9\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 300,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    ],
)
def test_what_is_no_http_is_refused_without_waiting(said) -> None:
    with pytest.raises(ValueError, match=r"HTTP|header|length|chunk|encoding"):
        taken(said, ended=False)


def test_nothing_yet_is_waited_for() -> None:
    assert taken(b"HT", ended=False) is None
    assert taken(b"HTTP/1.1 200 OK\r\nContent-Le", ended=False) is None


def test_a_page_without_a_body() -> None:
    response = taken(b"HTTP/1.1 204 No Content\r\n\r\n", ended=False)
    assert response is not None
    assert (response.status, response.body) == (204, b"")


@pytest.mark.parametrize("said", [LENGTH, CHUNKED, GOES_ON])
@pytest.mark.parametrize("surplus", [b"", b"HTTP/1.1 200 OK"])
def test_a_response_after_which_more_may_be_asked_is_taken_out_of_what_came(said, surplus) -> None:
    received = bytearray(said + surplus)
    assert HttpAnswer()(received, False) is not None
    assert received == surplus


@pytest.mark.parametrize(
    "said",
    [
        LENGTH.replace(b"Content-Type: text/json", b"Connection: Close"),
        LENGTH.replace(b"HTTP/1.1", b"HTTP/1.0"),
        CHUNKED[:-2],
    ],
)
def test_one_that_ends_its_connection_or_is_not_known_to_be_over_is_left_there(said) -> None:
    received = bytearray(said)
    assert HttpAnswer()(received, False) is not None
    assert received == said


def test_what_is_sent() -> None:
    assert wire(PORT, GET).splitlines()[0] == b"GET /cgi-bin/summary.cgi?x=1 HTTP/1.1"
    assert b"Host: 10.0.0.1\r\n" in wire(PORT, GET)
    assert b"Host: 10.0.0.1:8080\r\n" in wire(replace(PORT, port=8080), GET)
    posted = wire(PORT, Request(path="/x", post={"a": 1}, headers={"Authorization": "t"}))
    head, _, body = posted.partition(b"\r\n\r\n")
    assert body == b'{"a":1}'
    assert b"Content-Length: 7" in head
    assert b"Authorization: t" in head
    assert b"Connection: close" in head
    assert b"Connection: keep-alive" in wire(PORT, GET, keep=True)

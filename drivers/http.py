"""One HTTP request to a machine and one response, over a `Connection` of its own or a `Line`: a fifth of what a client
costs."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from drivers.connection import Endpoint, Line
from drivers.transport import Answer, exchange

_HEAD_BYTES = 64 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?")
_CHUNK_LINE_BYTES = 256
_PORT = 80
_WITHOUT_BODY = {204, 304}
_BLANK_LINE = b"\r\n\r\n"
_HEADERS = "Accept: */*\r\nAccept-Encoding: identity\r\nUser-Agent: hashcost\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked: a page or, with a body, a post."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    post: Answer | None = None

    @property
    def method(self) -> str:
        """Of HTTP."""
        return "GET" if self.post is None else "POST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What came back, whatever its status. Names of headers are in lower case."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


async def respond(
    endpoint: Endpoint, request: Request, line: Line | None = None, until: float | None = None
) -> Response:
    """The whole response to a request, over a connection of its own or over `line`; a post is sent once. Raises
    `DriverError`, as `Connection.ask`; ValueError for what cannot be sent."""
    sent, take = wire(endpoint, request, keep=line is not None), HttpAnswer()
    response: Response = await (
        exchange(endpoint, sent, take, until)
        if line is None
        else line.ask(sent, take, until, again=request.post is None)
    )
    return response


def wire(endpoint: Endpoint, request: Request, *, keep: bool = False) -> bytes:
    """A request as it is sent; the connection ends with the response unless the machine is to `keep` it. Raises
    ValueError."""
    host = endpoint.host if endpoint.port == _PORT else f"{endpoint.host}:{endpoint.port}"
    head = f"{request.method} {request.path} HTTP/1.1\r\nHost: {host}\r\n{_HEADERS}"
    head += "Connection: keep-alive\r\n" if keep else "Connection: close\r\n"
    for name, value in request.headers.items():
        head += f"{name}: {value}\r\n"
    if request.post is None:
        return f"{head}\r\n".encode("latin-1")
    body = json.dumps(request.post, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    head += f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n\r\n"
    return head.encode("latin-1") + body


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """Status, headers, and where the body begins; `length` None means until the connection ends. `keeps` is whether
    the machine says no more than that, and does not close."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body_at: int
    length: int | None
    chunked: bool
    keeps: bool


class HttpAnswer:
    """Takes one response. Everything is bounded by what a connection receives; nothing that came is looked at twice."""

    def __init__(self) -> None:
        self._head: _Head | None = None
        self._next = 0
        self._chunks: list[bytes] = []
        self._end = 0

    def __call__(self, received: bytearray, ended: bool) -> Response | None:
        """The response, or None while it is not complete. Removed from what was received if the connection may be asked
        again; left there if it ends with it, or it is not known to. Raises ValueError."""
        if self._head is None:
            self._head = _head(received, self._next)
            while self._head is not None and 100 <= self._head.status < 200:  # it goes on with the real one
                self._next = self._head.body_at
                self._head = _head(received, self._next)
        head = self._head
        body = None if head is None else self._body(head, received, ended)
        if head is not None and body is not None:
            if head.keeps:
                del received[: self._end]
            return Response(status=head.status, headers=head.headers, body=body)
        if ended:
            raise ValueError("the response was cut")
        return None

    def _body(self, head: _Head, received: bytearray, ended: bool) -> bytes | None:
        if head.status in _WITHOUT_BODY:
            self._end = head.body_at
            return b""
        if head.chunked:
            return self._chunked(head, received)
        if head.length is None:
            return bytes(received[head.body_at :]) if ended else None
        end = self._end = head.body_at + head.length
        return bytes(received[head.body_at : end]) if len(received) >= end else None

    def _chunked(self, head: _Head, received: bytearray) -> bytes | None:
        at = max(self._next, head.body_at)
        while True:
            end = received.find(b"\r\n", at, at + _CHUNK_LINE_BYTES)
            if end < 0:
                if len(received) - at >= _CHUNK_LINE_BYTES:
                    raise ValueError("a chunk without its size")
                return None
            size = _CHUNK_SIZE.fullmatch(received, at, end)
            if size is None:
                raise ValueError("a chunk without its size")
            length = int(size[1], 16)
            if length == 0:
                self._end = end + 4 if received[end:].startswith(_BLANK_LINE) else 0
                return b"".join(self._chunks)
            if len(received) < end + 2 + length + 2:
                return None
            if received[end + 2 + length : end + 4 + length] != b"\r\n":
                raise ValueError("a chunk of another size than it says")
            self._chunks.append(bytes(received[end + 2 : end + 2 + length]))
            at = self._next = end + 4 + length


def _head(received: bytearray, at: int) -> _Head | None:
    """Status line and headers, or None while they are not complete. Raises ValueError."""
    end = received.find(_BLANK_LINE, at, at + _HEAD_BYTES)
    if end < 0:
        if not received.startswith(b"HTTP/"[: len(received) - at], at) or len(received) - at >= _HEAD_BYTES:
            raise ValueError(f"not HTTP: {bytes(received[at : at + 40])!r}")
        return None
    first, *lines = bytes(received[at:end]).split(b"\r\n")
    status = _STATUS_LINE.fullmatch(first)
    if status is None:
        raise ValueError(f"not HTTP: {first[:40]!r}")
    headers = [_header(line) for line in lines]
    found = dict(headers)
    if found.get(b"content-encoding", b"identity").lower() != b"identity":
        raise ValueError("an encoding that nobody asked for")  # nor is it unpacked: it may be a bomb
    chunked = found.get(b"transfer-encoding", b"").lower() == b"chunked"
    length = found.get(b"content-length")
    if length is not None and not length.isdigit():
        raise ValueError(f"a length that is no number: {length[:40]!r}")
    return _Head(
        status=int(status[1]),
        headers=headers,
        body_at=end + 4,
        length=None if length is None else int(length),
        chunked=chunked,
        keeps=first.startswith(b"HTTP/1.1") and b"close" not in found.get(b"connection", b"").lower(),
    )


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not name.strip():
        raise ValueError(f"a header without a name: {line[:40]!r}")
    return name.strip().lower(), value.strip()

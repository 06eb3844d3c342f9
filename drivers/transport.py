"""Bytes to and from a machine, bounded in time and size, and every way that can fail as a `DriverError`.

Neither pyasic nor its objects appear here; `drivers/_pyasic.py` puts this underneath them.
"""

import asyncio
import contextlib
import errno
import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from drivers.driver import (
    ConnectionLost,
    DriverError,
    Malformed,
    NoAnswer,
    OutOfSockets,
    Oversized,
    Refused,
    Unreachable,
)

CGMINER_PORT = 4028
WHATSMINER_V3_PORT = 4433
_CHUNK_BYTES = 1 << 16
_EARLY_ATTEMPTS = 8
_HEADER_BYTES = 4
_OUT_OF_SOCKETS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
_NO_ANSWER = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN}

Answer = dict[str, Any]
Take = Callable[[bytearray, bool], Any]
"""Looks at what has come and whether the peer has closed: the answer, or None for "not complete yet"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One port of one machine and the bounds of one request to it. `name` is the machine in messages."""

    name: str
    host: str
    port: int
    connect_s: float
    call_s: float
    max_bytes: int


async def exchange(endpoint: Endpoint, request: bytes, take: Take) -> Any:
    """Send `request`, read until `take` has an answer, and close. Raises `DriverError`, never anything else;
    its `sent` is False only if not a byte of the request has left."""
    sent = False
    try:
        async with asyncio.timeout(endpoint.call_s):
            reader, writer = await _connect(endpoint)
            try:
                sent = True
                writer.write(request)
                await writer.drain()
                return await _receive(endpoint, reader, take)
            finally:
                await _close(writer)
    except TimeoutError as error:
        detail = f"no complete answer on port {endpoint.port} in time"
        raise NoAnswer(endpoint.name, detail, sent=sent) from error
    except OSError as error:
        found = failure(endpoint.name, endpoint.port, error)
        found.sent = sent
        raise found from error
    except DriverError as error:
        error.sent = sent
        raise


async def _connect(endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(endpoint.connect_s):
        return await asyncio.open_connection(endpoint.host, endpoint.port, family=socket.AF_INET)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Give the socket back now: a peer that never ends must not keep it."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _receive(endpoint: Endpoint, reader: asyncio.StreamReader, take: Take) -> Any:
    received = bytearray()
    while True:
        chunk = await reader.read(_CHUNK_BYTES)
        received += chunk
        if len(received) > endpoint.max_bytes:
            raise Oversized(endpoint.name, f"more than {endpoint.max_bytes} bytes on port {endpoint.port}")
        if not received and not chunk:
            raise ConnectionLost(endpoint.name, f"port {endpoint.port} closed without an answer")
        try:
            answer = take(received, not chunk)
        except _ProcessDownError as error:
            raise Refused(
                endpoint.name, f"port {endpoint.port} answers, but no mining process behind it"
            ) from error
        except ValueError as error:
            raise Malformed(endpoint.name, f"port {endpoint.port}: {error}") from error
        if answer is not None:
            return answer


def failure(name: str, port: int, error: OSError) -> DriverError:
    """What an operating system's error says about the machine (or about this host)."""
    if isinstance(error, ConnectionRefusedError):
        return Refused(name, f"nothing listens on port {port}")
    if isinstance(error, ConnectionError):
        return ConnectionLost(name, f"port {port}: connection lost ({error.__class__.__name__})")
    if error.errno in _OUT_OF_SOCKETS:
        return OutOfSockets(name, f"this host cannot open a socket: {error}; raise its limit of open files")
    if error.errno in _NO_ANSWER or isinstance(error, TimeoutError):
        return NoAnswer(name, f"port {port}: {error}")
    return Unreachable(name, f"port {port}: {error}")


# -- cgminer JSON (TCP 4028) ----------------------------------------------------------------------


async def ask_cgminer(endpoint: Endpoint, request: Answer) -> Answer:
    """One JSON request, one JSON object back; the machine ends by closing, by NUL, or not at all."""
    answer: Answer = await exchange(endpoint, json.dumps(request).encode(), CgminerAnswer())
    return answer


class CgminerAnswer:
    """Takes an answer that ends with the connection, with NUL, or at its last brace.

    Some peers half-close and never end. So whenever as many braces have closed as have opened, the bytes
    are tried as an answer; a few times only, or a hostile peer would make us parse for ever.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._open = 0
        self._attempts = _EARLY_ATTEMPTS

    def __call__(self, received: bytearray, ended: bool) -> Answer | None:
        """The decoded answer, or None while it is not complete. Raises ValueError."""
        if ended:
            return decode_object(bytes(received))
        new = received[self._seen :]
        self._seen = len(received)
        self._open += new.count(b"{") - new.count(b"}")
        complete = received.endswith(b"\x00") or (self._open == 0 and received.rstrip().endswith(b"}"))
        if not complete or not self._attempts:
            return None
        self._attempts -= 1
        with contextlib.suppress(ValueError):
            return decode_object(bytes(received))
        return None


_PROCESS_DOWN = "Socket connect failed"
"""What the front of some firmware says for a mining process that does not run, asleep machines' among them."""


class _ProcessDownError(ValueError):
    """The front of the API says that it reached no mining process."""


_REPAIRS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"}(?=\s*[{\"])"), "},"),  # bmminer: no comma between objects
    (re.compile(r"](?=\s*[\[\"])"), "],"),
    (re.compile(r"(?<=[^\s:,\[{\\])\"\"(?=[A-Za-z])"), '","'),  # btminer: no comma between members
    (re.compile(r"(?<=\d)\"(?=[A-Za-z][^\",:]*\":)"), ',"'),
    (re.compile(r",(?=\s*[}\]])"), ""),  # btminer: a comma too many
    (re.compile(r"(?<=\[),"), ""),
    (re.compile(r"(?<=[:,\[])\s*[-+]?(?:nan|inf(?:inity)?)(?=\s*[,}\]])", re.IGNORECASE), "null"),
    # Whatsminer API 2.0.4: a list written like a mapping
    (re.compile(r'("error_code"\s*+:\s*+)\[((?:\s*+"[^"]*"\s*+:\s*+"[^"]*"(?:\s*+,)?)++\s*+)\]'), r"\1{\2}"),
)
"""Repairs put back punctuation that firmware forgets. None of them can make up or finish a value, or has more than one
way to fit the same text: a hostile machine would make us try them all."""


def decode_object(data: bytes) -> Answer:
    """The JSON object in an answer. Raises ValueError if it is cut, is no JSON, or no object.

    NaN and infinities become None. A cut answer stays an error: completing it would invent its last value.
    """
    content = data.replace(b"\x00", b"").decode("utf-8", errors="replace").strip()
    if content.startswith(_PROCESS_DOWN):
        raise _ProcessDownError(content[:60])
    if not content.startswith("{"):
        raise ValueError(f"not JSON: {content[:60]!a}")  # no byte of it reaches a terminal
    try:
        return _loads(content)
    except ValueError:
        for pattern, replacement in _REPAIRS:
            content = pattern.sub(replacement, content)
        return _loads(content)


def _loads(content: str) -> Answer:
    try:
        value = json.loads(content, parse_constant=lambda _: None, strict=False)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"cut or broken JSON of {len(content)} characters: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("JSON, but not an object")  # noqa: TRY004
    return value


# -- Whatsminer V3: little-endian length, then JSON (TCP 4433) -------------------------------------


async def ask_framed(endpoint: Endpoint, request: Answer) -> Answer:
    """One length-prefixed JSON request and answer."""

    def take(received: bytearray, ended: bool) -> Answer | None:
        if len(received) < _HEADER_BYTES:
            return _not_yet(ended)
        length = int.from_bytes(received[:_HEADER_BYTES], "little")
        if length > endpoint.max_bytes:
            raise Oversized(endpoint.name, f"port {endpoint.port} announces {length} bytes")
        if len(received) < _HEADER_BYTES + length:
            return _not_yet(ended)
        return decode_object(bytes(received[_HEADER_BYTES : _HEADER_BYTES + length]))

    body = json.dumps(request).encode()
    answer: Answer = await exchange(endpoint, len(body).to_bytes(_HEADER_BYTES, "little") + body, take)
    return answer


def _not_yet(ended: bool) -> Answer | None:
    if ended:
        raise ValueError("the answer was cut")
    return None

"""One TCP connection to a machine: bounded in time and bytes, and every way it can fail as a `DriverError`.

A bare protocol and not asyncio's streams: those cost more than the rest of a reading.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

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

_OUT_OF_SOCKETS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
_NO_ANSWER = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN}

FRESH_S = 2.0
"""Web servers close what is idle for 5 s: a connection that answered so lately is not about to end."""

Take = Callable[[bytearray, bool], Any]
"""Looks at what has come and whether the peer has closed: the answer, or None for "not complete yet". Raises
ValueError for what is no answer. May remove from what has come the answer that it found."""


class ProcessDownError(ValueError):
    """The front of the API says that it reached no mining process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One port of one machine and the bounds of one request to it. `name` is the machine in messages."""

    name: str
    host: str
    port: int
    connect_s: float
    call_s: float
    max_bytes: int


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


class Connection(asyncio.Protocol):
    """One connection, opened when it is first asked, and asked one thing at a time."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._take: Take | None = None
        self._answer: asyncio.Future[Any] | None = None
        self._gone: asyncio.Future[None] | None = None

    @property
    def usable(self) -> bool:
        """Whether the machine keeps it open, owes no answer on it, and has said nothing beyond its answers."""
        if self._transport is None or self._transport.is_closing() or self._received:
            return False
        return self._answer is not None and self._answer.done() and not self._answer.cancelled()

    async def ask(self, request: bytes, take: Take, until: float | None = None) -> Any:
        """Send a request and wait until `take` has the answer, `call_s` or `until` then on the loop's clock. Raises
        `DriverError`, never anything else; its `sent` is False only if not a byte of the request has left."""
        endpoint, is_open, sent = self._endpoint, self._transport is not None, False
        now = asyncio.get_running_loop().time()
        until = now + endpoint.call_s if until is None else until
        try:
            async with asyncio.timeout_at(
                until if is_open else min(until, now + endpoint.connect_s)
            ) as limit:
                if not is_open:
                    await self._open()
                    limit.reschedule(until)
                sent = True
                return await self._send(request, take)
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

    def abort(self) -> None:
        """Close it: a peer that never ends must not keep it."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Give the socket back now."""
        if self._transport is not None and self._gone is not None:
            self._transport.abort()
            await asyncio.shield(self._gone)  # a wait that is broken off does not break off the next one's

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its type

    def data_received(self, data: bytes) -> None:
        """Something came: an answer, a part of one, or what nobody asked for."""
        self._received += data
        if len(self._received) > self._endpoint.max_bytes:
            endpoint = self._endpoint
            detail = f"more than {endpoint.max_bytes} bytes on port {endpoint.port}"
            self._fail(Oversized(endpoint.name, detail))
        else:
            self._try(ended=False)

    def eof_received(self) -> None:
        """The machine has said all; the connection closes."""
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by either side."""
        if isinstance(exc, OSError):
            self._fail(failure(self._endpoint.name, self._endpoint.port, exc))
        else:
            self._end()
        if self._gone is not None and not self._gone.done():  # who waited for it may have been cancelled
            self._gone.set_result(None)

    # -- inside

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self._gone = loop.create_future()
        try:
            await loop.create_connection(
                lambda: self, self._endpoint.host, self._endpoint.port, family=socket.AF_INET
            )
        except BaseException:
            # the loop closes what it opened too late; uvloop does without a word, for which close() would wait for ever
            self._transport = None
            raise

    async def _send(self, request: bytes, take: Take) -> Any:
        assert self._transport is not None  # noqa: S101 - it is open
        self._take = take
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        answer = await self._answer
        if isinstance(answer, DriverError):
            raise answer
        return answer

    def _end(self) -> None:
        if self._received:
            self._try(ended=True)
        detail = f"port {self._endpoint.port} closed without an answer"
        self._fail(ConnectionLost(self._endpoint.name, detail))

    def _try(self, *, ended: bool) -> None:
        """Let `take` look at what has come."""
        if self._take is None or self._answer is None or self._answer.done():
            return
        name, port = self._endpoint.name, self._endpoint.port
        try:
            answer = self._take(self._received, ended)
        except ProcessDownError as error:
            self._fail(Refused(name, f"port {port} answers, but no mining process behind it"), error)
        except ValueError as error:
            self._fail(Malformed(name, f"port {port}: {error}"), error)
        except DriverError as error:
            self._fail(error)
        else:
            if answer is not None:
                self._answer.set_result(answer)

    def _fail(self, error: DriverError, cause: Exception | None = None) -> None:
        if self._answer is not None and not self._answer.done():
            error.__cause__ = cause
            self._answer.set_result(error)
        self.abort()


class Line:
    """One port of a machine that is asked several things in a row, over one connection if the machine keeps it.

    One that closes after each answer is asked over new ones. One that keeps its connection and no longer answers well
    on it costs one failure, after which it is asked over new ones too.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._connection: Connection | None = None
        self._keeps = True
        self._answered_at = 0.0

    async def ask(self, request: bytes, take: Take, until: float | None = None, *, again: bool = True) -> Any:
        """As `Connection.ask`. What may not be asked `again` goes over a connection on which the machine has answered
        just now, or over a new one."""
        reused = self._reusable(FRESH_S if not again else None)
        if not reused:
            await self._renew()
        try:
            return await self._ask(request, take, until)
        except ConnectionLost:
            if reused and again:
                await self._renew()
                return await self._ask(request, take, until)
            self._keeps = self._keeps and not reused
            raise
        except (NoAnswer, Malformed):
            self._keeps = self._keeps and not reused
            raise

    def drop(self) -> None:
        """As `hang_up`, without waiting."""
        if self._connection is not None:
            self._connection.abort()

    async def hang_up(self) -> None:
        """Close the connection; the next question opens another."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    def _reusable(self, within_s: float | None) -> bool:
        if not self._keeps or self._connection is None or not self._connection.usable:
            return False
        return within_s is None or asyncio.get_running_loop().time() - self._answered_at < within_s

    async def _renew(self) -> None:
        await self.hang_up()
        self._connection = Connection(self._endpoint)

    async def _ask(self, request: bytes, take: Take, until: float | None) -> Any:
        assert self._connection is not None  # noqa: S101 - it was made, or found to be usable
        answer = await self._connection.ask(request, take, until)
        self._answered_at = asyncio.get_running_loop().time()
        return answer

"""A small MQTT broker on loopback (MQTT 3.1.1, OASIS 2014): exact topics, retained messages, quality 0 and 1."""

import asyncio
from collections.abc import Sequence
from typing import Self

_CONNECT = 1
_CONNACK, _PUBACK, _SUBACK, _PONG = 0x20, 0x40, 0x90, 0xD0
_ACCEPTED, _BAD_LOGIN, _REFUSED = 0, 4, 0x80
_USERNAME, _PASSWORD, _WILL = 0x80, 0x40, 0x04


class SimulatedBroker:
    """The broker. `login` is what it wants, if anything. An async context
    manager."""

    def __init__(self, *, login: tuple[str, str] | None = None, port: int = 0) -> None:
        self.login = login
        self.port = port
        self.logins = 0
        self.denied: set[str] = set()
        """Topics that nobody may hear."""
        self._retained: dict[str, bytes] = {}
        self._clients: dict[asyncio.StreamWriter, set[str]] = {}
        self._server: asyncio.Server | None = None
        self._talking: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None  # noqa: S101 - entered
        self._server.close()
        self.drop()
        await asyncio.gather(*self._talking, return_exceptions=True)
        await self._server.wait_closed()

    def drop(self) -> None:
        """Break every connection."""
        for task in list(self._talking):
            task.cancel()

    def subscribers(self, topic: str) -> int:
        """How many listen."""
        return sum(topic in topics for topics in self._clients.values())

    def publish(self, topic: str, body: bytes, *, retain: bool = False) -> None:
        """Say something to everybody who listens; what is retained, to those who come later too."""
        if retain:
            self._retained[topic] = body
        for writer, topics in self._clients.items():
            if topic in topics:
                writer.write(_message(topic, body, retained=False))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a server's callback is a task
        self._talking.add(task)
        try:
            if await self._admit(reader, writer):
                await self._converse(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the client left, or we do
        finally:
            self._talking.discard(task)
            self._clients.pop(writer, None)
            writer.close()

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        kind, _, body = await _packet(reader)
        if kind != _CONNECT:
            return False
        right = self.login is None or _login(body) == self.login
        writer.write(bytes([_CONNACK, 2, 0, _ACCEPTED if right else _BAD_LOGIN]))
        await writer.drain()
        self.logins += right
        return right

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients[writer] = set()
        while True:
            kind, flags, body = await _packet(reader)
            match kind:
                case 8:  # SUBSCRIBE
                    topics = set(_topics(body[2:]))
                    self._clients[writer].update(topics - self.denied)
                    granted = bytes(_REFUSED if topic in self.denied else 0 for topic in topics)
                    writer.write(bytes([_SUBACK, 2 + len(topics)]) + body[:2] + granted)
                    for topic in topics - self.denied:
                        if topic in self._retained:
                            writer.write(_message(topic, self._retained[topic], retained=True))
                case 3:  # PUBLISH
                    topic, rest = _text(body)
                    if flags & 0x06:
                        writer.write(bytes([_PUBACK, 2]) + rest[:2])
                        rest = rest[2:]
                    self.publish(topic, rest, retain=bool(flags & 1))
                case 12:  # PINGREQ
                    writer.write(bytes([_PONG, 0]))
                case 14:  # DISCONNECT
                    return
                case _:
                    pass
            await writer.drain()


async def _packet(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    """Kind, flags and body of the next packet."""
    first = (await reader.readexactly(1))[0]
    length, shift = 0, 0
    while True:
        digit = (await reader.readexactly(1))[0]
        length |= (digit & 0x7F) << shift
        if not digit & 0x80:
            return first >> 4, first & 0x0F, await reader.readexactly(length)
        shift += 7


def _text(body: bytes) -> tuple[str, bytes]:
    length = int.from_bytes(body[:2], "big")
    return body[2 : 2 + length].decode(), body[2 + length :]


def _topics(body: bytes) -> list[str]:
    topics = []
    while body:
        topic, body = _text(body)
        topics.append(topic)
        body = body[1:]  # the quality that is asked for
    return topics


def _login(body: bytes) -> tuple[str, str]:
    _, rest = _text(body)  # the protocol's name
    flags, rest = rest[1], rest[4:]  # level, flags, keepalive
    fields: Sequence[int] = [1, *((1, 1) if flags & _WILL else ())]
    for _field in fields:
        _, rest = _text(rest)
    user, password = "", ""
    if flags & _USERNAME:
        user, rest = _text(rest)
    if flags & _PASSWORD:
        password, rest = _text(rest)
    return user, password


def _message(topic: str, body: bytes, *, retained: bool) -> bytes:
    told = len(topic).to_bytes(2, "big") + topic.encode() + body
    length, size = b"", len(told)
    while True:
        size, digit = divmod(size, 128)
        length += bytes([digit | (0x80 if size else 0)])
        if not size:
            return bytes([0x30 | retained]) + length + told

"""A small HTTP server on loopback that plays many sources at once, each under a path of its own, and can make each
of them fail in the ways that sources fail."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import h11

SLOW_S = 30.0
HUGE_BYTES = 8 * 1024 * 1024
REQUEST_LIMIT_BYTES = 256 * 1024


class SourceFault(StrEnum):
    """How a source fails or lies."""

    DOWN = "down"
    """Closes the connection without a word."""
    SLOW = "slow"
    STATUS_429 = "429"
    STATUS_503 = "503"
    REDIRECT = "redirect"
    """Answers 302 first, and properly where that leads."""
    LOOP = "redirect_loop"
    HTML = "html"
    """A page for people, with HTTP 200."""
    CUT = "cut"
    """Half of the JSON."""
    HUGE = "huge"
    EMPTY = "empty"
    """An empty object or list."""
    TEXTS = "texts"
    """Every number as a text."""
    ZEROS = "zeros"
    """Every number 0, with HTTP 200: its node is down."""
    MINUS_ONE = "minus_one"
    YESTERDAY = "yesterday"
    """Yesterday's values with the time of now."""
    TIMES_100 = "times_100"
    TIMES_1000 = "times_1000"
    THOUSANDTH = "thousandth"
    CLOCK_AHEAD = "clock_ahead"
    """Its times are an hour in the future."""


Handler = Callable[["Request"], Any]
"""Gives data to be sent as JSON, or a text or bytes to be sent as they are; None is 404, a status that
status."""


class Request:
    """One request: path under the source, query and body."""

    def __init__(self, target: str, headers: Mapping[str, str], body: bytes) -> None:
        parts = urlsplit(target)
        self.path = parts.path
        self.query = dict(parse_qsl(parts.query))
        self.headers = headers
        self.body = body


class SimulatedSources:
    """The server. `handlers` answer by source; `faults` make one fail; `asked` counts requests by source. An async
    context manager; `url(source)` is where a source is."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self.faults: dict[str, SourceFault] = {}
        self.asked: Counter[str] = Counter()
        self.elsewhere = ""
        """Where the source of that name sends everybody."""
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._talking: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None  # noqa: S101 - entered
        self._server.close()
        for task in list(self._talking):
            task.cancel()
        await self._server.wait_closed()

    def url(self, source: str) -> str:
        """The base address of a source."""
        assert self._server is not None  # noqa: S101 - entered
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/{source}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a server's callback is a task
        self._talking.add(task)
        try:
            await self._converse(reader, writer)
        except (OSError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass  # the client left, or we do
        finally:
            self._talking.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        while True:
            request = await _next_request(http, reader)
            if request is None:
                return
            source, _, rest = request.path.lstrip("/").partition("/")
            request.path = f"/{rest}"
            self.asked[source] += 1
            fault = self.faults.get(source)
            if fault is SourceFault.DOWN:
                return
            if fault is SourceFault.SLOW:
                await asyncio.sleep(SLOW_S)
            status, headers, body = self._answer(source, request, fault)
            head = h11.Response(
                status_code=status,
                headers=[("Content-Length", str(len(body))), *headers.items()],
                reason=HTTPStatus(status).phrase.encode(),
            )
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                writer.write(http.send(event) or b"")
            await writer.drain()
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

    def _answer(
        self, source: str, request: Request, fault: SourceFault | None
    ) -> tuple[int, dict[str, str], bytes]:
        if source == "elsewhere":
            return HTTPStatus.FOUND, {"Location": self.elsewhere}, b""
        redirect = {SourceFault.REDIRECT: "redirected" not in request.query, SourceFault.LOOP: True}
        if fault is not None and redirect.get(fault, False):
            query = "&".join(
                f"{name}={value}" for name, value in {**request.query, "redirected": "1"}.items()
            )
            return HTTPStatus.FOUND, {"Location": f"/{source}{request.path}?{query}"}, b""
        if fault is SourceFault.STATUS_429:
            return HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": "120"}, b"slow down"
        if fault is SourceFault.STATUS_503:
            return HTTPStatus.SERVICE_UNAVAILABLE, {}, b"<html>maintenance</html>"
        handler = self._handlers.get(source)
        told = None if handler is None else handler(request)
        if told is None or isinstance(told, HTTPStatus):
            return told or HTTPStatus.NOT_FOUND, {}, b"no"
        return HTTPStatus.OK, {"Content-Type": "application/json"}, _spoilt(told, fault)


async def _next_request(http: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    head: h11.Request | None = None
    body = b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > REQUEST_LIMIT_BYTES:
                return None
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
            return Request(head.target.decode("latin-1"), headers, body)
        else:
            return None


def _as_texts(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _as_texts(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_as_texts(value) for value in data]
    return str(data) if isinstance(data, int | float) and not isinstance(data, bool) else data


def _spoilt(told: Any, fault: SourceFault | None) -> bytes:
    """The answer on the wire, as the fault makes it. Faults of values are for handlers that know their values."""
    wire = told if isinstance(told, bytes) else (told if isinstance(told, str) else json.dumps(told)).encode()
    match fault:
        case SourceFault.HTML:
            return b"<!doctype html><title>Just a moment...</title>"
        case SourceFault.CUT:
            return wire[: len(wire) // 2]
        case SourceFault.HUGE:
            return wire + b" " * HUGE_BYTES
        case SourceFault.EMPTY:
            return b"[]" if wire.startswith(b"[") else b"{}"
        case SourceFault.TEXTS:
            return wire if isinstance(told, str | bytes) else json.dumps(_as_texts(told)).encode()
        case _:
            return wire

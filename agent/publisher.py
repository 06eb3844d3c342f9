"""Where metrics go: a page on loopback for Prometheus, a file for node_exporter, or both; neither unless configured."""

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from agent.exposition import CONTENT_TYPE

log = logging.getLogger("hashcost")

REQUEST_LIMIT_BYTES = 8 * 1024
MAX_CLIENTS = 8
ANSWER_WITHIN_S = 5.0
FRESH_S = 1.0
"""However often somebody asks, the page is written anew once in so many seconds."""
RETRY_S = 30.0


@dataclass(frozen=True, slots=True)
class Listen:
    """An address of this host."""

    host: str
    port: int


class MetricsPage:
    """Answers `GET /metrics` until cancelled. Slow, endless and malformed requests cost a connection of few."""

    def __init__(self, listen: Listen, render: Callable[[], str]) -> None:
        self._listen = listen
        self._render = render
        self._clients = 0
        self._page = b""
        self._page_until_s = 0.0
        self.port = 0

    async def run(self) -> None:
        """Serve. An address that cannot be had is told once and tried again."""
        told = False
        while True:
            try:
                server = await asyncio.start_server(
                    self._client, self._listen.host, self._listen.port, limit=REQUEST_LIMIT_BYTES
                )
            except OSError as error:
                if not told:
                    log.error(  # noqa: TRY400 - of the host
                        "event=metrics_unavailable listen=%s:%d detail=%r",
                        self._listen.host, self._listen.port, str(error),
                    )  # fmt: skip
                told = True
                await asyncio.sleep(RETRY_S)
                continue
            async with server:
                self.port = server.sockets[0].getsockname()[1]
                if told:
                    log.info("event=metrics_available listen=%s:%d", self._listen.host, self.port)
                await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                if self._clients <= MAX_CLIENTS:
                    writer.write(await self._answer(reader))
                    await writer.drain()
        except (OSError, TimeoutError):
            writer.transport.abort()
        finally:
            self._clients -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return _response("400 Bad Request", b"no request of HTTP/1.1\n")
        method, _, rest = request.partition(b" ")
        target = rest.partition(b" ")[0].partition(b"?")[0]
        if target != b"/metrics":
            return _response("404 Not Found", b"the metrics are at /metrics\n")
        if method not in {b"GET", b"HEAD"}:
            return _response("405 Method Not Allowed", b"GET or HEAD\n")
        page = self._fresh_page()
        return _response("200 OK", page, body=method == b"GET")

    def _fresh_page(self) -> bytes:
        if monotonic() >= self._page_until_s:
            self._page = self._render().encode()
            self._page_until_s = monotonic() + FRESH_S
        return self._page


def _response(status: str, content: bytes, *, body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(content)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (content if body else b"")


class MetricsFile:
    """A file that is replaced as a whole, so that nobody reads half of it. That it fails is told once, and that it is
    over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed = False

    def write(self, text: str) -> None:
        """Replace the file, readable by everybody. Blocks."""
        try:
            _replace(self._path, text)
        except OSError as error:
            if not self._failed:
                log.error("event=metrics_unavailable file=%s detail=%r", self._path, str(error))  # noqa: TRY400
            self._failed = True
        else:
            if self._failed:
                log.info("event=metrics_available file=%s", self._path)
            self._failed = False


def _replace(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise

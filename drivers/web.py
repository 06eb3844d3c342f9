"""HTTP to a machine, bounded in time and size, with every failure as a `DriverError`.

Stock Antminers answer at `/cgi-bin/<command>.cgi` behind digest authentication.
"""

import asyncio
import contextvars
import functools
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

import httpx

from drivers.connection import Endpoint, Line, failure
from drivers.digest import Digest
from drivers.driver import (
    AuthenticationFailed,
    ConnectionLost,
    DriverError,
    Malformed,
    NoAnswer,
    OutOfSockets,
    Oversized,
    Unreachable,
    Unsupported,
)
from drivers.http import Request, Response, respond
from drivers.transport import Answer, decode_object

_SILENT_CLOSE = "without sending a response"
_OK = 200
_DENIED = {401, 403}
_BAD_REQUEST = 400
_ABSENT = {404, 405, 501}


@dataclass(frozen=True, slots=True)
class Page:
    """What a browser would show, whatever its status."""

    status: int
    headers: httpx.Headers
    body: bytes
    history: tuple[httpx.Response, ...] = ()

    @property
    def content(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", errors="replace")


class WebAccess:
    """Requests to one machine, with the login that it may want."""

    def __init__(self, endpoint: Endpoint, login: Digest | None) -> None:
        self._endpoint = endpoint
        self._login = login
        self._kept = Line(endpoint)
        self._line: Line | None = None
        self._hanging_up: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def one_connection(self, *, left_open_s: float = 0.0) -> AsyncIterator[None]:
        """Ask all that is asked inside over one connection, as far as the machine keeps it; if all goes well it is left
        open for so long, for the next one who wants one."""
        if self._hanging_up is not None:
            self._hanging_up.cancel()
            self._hanging_up = None
        self._line, open_s = self._kept, 0.0
        try:
            yield
            open_s = left_open_s
        finally:
            self._line = None
            if open_s:
                self._hanging_up = asyncio.get_running_loop().call_later(open_s, self._kept.drop)
            else:
                await self._kept.hang_up()

    async def json(self, path: str) -> Answer:
        """The JSON object at `path`, broken punctuation mended. Raises `DriverError`: a wrong login is
        `AuthenticationFailed`."""
        return self._decoded(await self._get(path), path, decode_object)

    async def exact_json(self, path: str) -> Answer:
        """The JSON object at `path` as it is, or `Malformed`: what is to be written back is never mended."""
        return self._decoded(await self._get(path), path, _strictly)

    async def post(self, path: str, body: Answer, *, within_s: float) -> Answer | None:
        """Post a JSON object; the JSON object that is answered, or None for HTTP 400: it does not take that as
        it is spelled. Raises `DriverError`, with `sent` for what is no answer."""
        patient = replace(self._endpoint, call_s=within_s)
        page = await fetch(patient, path, self._login, post=body, line=self._line)
        if page.status == _BAD_REQUEST:
            return None
        return self._decoded(page, path, decode_object)

    async def _get(self, path: str) -> Response:
        """One page."""
        return await fetch(self._endpoint, path, self._login, line=self._line)

    def _where(self, path: str) -> str:
        return f"http port {self._endpoint.port} {path}"

    def _decoded(self, page: Response, path: str, decode: Callable[[bytes], Answer]) -> Answer:
        where = f"{self._where(path)}: "
        if page.status in _DENIED:
            raise AuthenticationFailed(
                self._endpoint.name, f"{where}HTTP {page.status}, check the credentials", sent=True
            )
        if page.status in _ABSENT:
            raise Unsupported(self._endpoint.name, f"{where}HTTP {page.status}", sent=True)
        if page.status != _OK:
            raise Malformed(self._endpoint.name, f"{where}HTTP {page.status}", sent=True)
        try:
            return decode(page.body)
        except ValueError as error:
            raise Malformed(self._endpoint.name, f"{where}{error}", sent=True) from error


def _strictly(body: bytes) -> Answer:
    """JSON without repairs. Raises ValueError."""
    try:
        found = json.loads(body, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"cut or broken JSON of {len(body)} bytes: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("JSON, but not an object")  # noqa: TRY004
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no value")


async def fetch(
    endpoint: Endpoint,
    path: str,
    login: Digest | None = None,
    *,
    post: Answer | None = None,
    headers: Mapping[str, str] | None = None,
    line: Line | None = None,
) -> Response:
    """GET one page, or POST an object to it, within `call_s`. Raises `DriverError`, its `sent` as in `Connection.ask`.
    A machine that denies us and then breaks the connection has locked us out."""
    until = asyncio.get_running_loop().time() + endpoint.call_s
    request = Request(path=path, headers=headers or {}, post=post)
    try:
        if login is None:
            return await respond(endpoint, request, line, until)
        known = login.authorization(request.method, path)
        response = await respond(endpoint, _with(request, known), line, until)
        if not login.challenged(response):
            return response
        try:
            return await respond(
                endpoint, _with(request, login.authorization(request.method, path)), line, until
            )
        except DriverError as error:
            if not known or post is not None:
                raise
            login.forget()
            detail = f"http port {endpoint.port} {path}: HTTP 401 and then nothing, check the credentials"
            raise AuthenticationFailed(endpoint.name, detail, sent=True) from error
    except ValueError as error:  # a challenge that is none
        raise Malformed(endpoint.name, f"http port {endpoint.port}: {error}", sent=True) from error


def _with(request: Request, login: Mapping[str, str]) -> Request:
    return Request(path=request.path, headers={**request.headers, **login}, post=request.post)


async def browse(endpoint: Endpoint, path: str) -> Page:
    """GET one page as a browser would, following where it leads. Raises `DriverError`."""
    timeout = httpx.Timeout(endpoint.call_s, connect=endpoint.connect_s)
    try:
        async with (
            asyncio.timeout(endpoint.call_s),
            httpx.AsyncClient(
                transport=BoundedTransport(endpoint.max_bytes), timeout=timeout, trust_env=False
            ) as client,
        ):
            url = f"http://{endpoint.host}:{endpoint.port}{path}"
            response = await client.get(url, follow_redirects=True)
            return Page(response.status_code, response.headers, response.content, tuple(response.history))
    except TimeoutError as error:
        raise NoAnswer(endpoint.name, f"no complete answer on http port {endpoint.port} in time") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise http_failure(endpoint.name, endpoint.port, error) from error


def http_failure(name: str, port: int, error: Exception) -> DriverError:
    """What an httpx error says about the machine (or about this host)."""
    if isinstance(error, TooLarge):
        return Oversized(name, f"http port {port}: {error}")
    if isinstance(error, httpx.TimeoutException):
        return NoAnswer(name, f"no complete answer on http port {port} in time")
    if isinstance(error, httpx.ConnectError):
        return _connect_failure(name, port, error)
    if isinstance(error, httpx.NetworkError) or _SILENT_CLOSE in str(error):
        return ConnectionLost(name, f"http port {port}: connection lost")
    return Malformed(name, f"http port {port}: {error or error.__class__.__name__}")


def _connect_failure(name: str, port: int, error: httpx.ConnectError) -> DriverError:
    reasons = [cause for cause in causes(error) if isinstance(cause, OSError) and cause.errno]
    found = [failure(name, port, cause) for cause in reasons]
    exhausted = [each for each in found if isinstance(each, OutOfSockets)]
    return (exhausted or found or [Unreachable(name, f"http port {port}: {error}")])[0]


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it came from, and what groups of those contain."""
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None:
            continue
        yield current
        pending += [current.__cause__, current.__context__ if current.__cause__ is None else None]
        if isinstance(current, BaseExceptionGroup):
            pending += list(current.exceptions)


# -- the transport under every HTTP client, pyasic's included ---------------------------------------


class TooLarge(httpx.RequestError):
    """A body beyond the limit. An httpx error, so that clients that expect those clean up."""


_trouble: contextvars.ContextVar[list[Exception] | None] = contextvars.ContextVar("_trouble", default=None)


@contextmanager
def overheard() -> Iterator[list[Exception]]:
    """Collects the errors of every request inside, also of those whose caller swallows them."""
    heard: list[Exception] = []
    token = _trouble.set(heard)
    try:
        yield heard
    finally:
        _trouble.reset(token)


def overhear(error: Exception) -> None:
    """Note an error for an enclosing `overheard`."""
    heard = _trouble.get()
    if heard is not None:
        heard.append(error)


class BoundedTransport(httpx.AsyncHTTPTransport):
    """httpx's transport with a limit to what it will read."""

    def __init__(self, max_bytes: int, verify: ssl.SSLContext | None = None) -> None:
        super().__init__(verify=verify or _unverified())
        self._max_bytes = max_bytes

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx does, and the body stops at the limit."""
        try:
            response = await super().handle_async_request(request)
        except httpx.HTTPError as error:
            overhear(error)
            raise
        except (
            AttributeError
        ) as error:  # anyio asks uvloop for the socket of a connection that is gone already
            lost = httpx.ReadError("connection lost", request=request)
            overhear(lost)
            raise lost from error
        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = _Limited(response.stream, self._max_bytes)
        return response


@functools.cache
def _unverified() -> ssl.SSLContext:
    """Machines have certificates of their own making, if any. Made once: it costs more than a request."""
    return httpx.create_ssl_context(verify=False)


class _Limited(httpx.AsyncByteStream):
    """A body that raises `TooLarge` instead of growing beyond a limit."""

    def __init__(self, stream: httpx.AsyncByteStream, max_bytes: int) -> None:
        self._stream = stream
        self._left = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._left -= len(chunk)
            if self._left < 0:
                error = TooLarge("more bytes than any honest answer has")
                overhear(error)
                raise error
            yield chunk

    async def aclose(self) -> None:
        """Give the connection back."""
        await self._stream.aclose()

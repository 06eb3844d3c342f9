"""Asks sources on the internet: one client, bounded in time and bytes, polite, and with failures that have names.

SourceError          a source that did not tell; .kind is stable, .retry_after_s what it asked for
"""

import asyncio
import csv
import json
import random
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Self, TypeVar

import httpx

from agent.clock import Clock

TIMEOUT_S = 10.0
LIMIT_BYTES = 4 * 1024 * 1024
REDIRECTS = 3
CACHED_PAGES = 32
LONGEST_CACHE = timedelta(minutes=15)
USER_AGENT = "hashcost"
LONGEST_RETRY_AFTER_S = 3000.0
"""A source that wants to be left alone for longer is asked again all the same."""
T = TypeVar("T")


class SourceError(Exception):
    """A source did not tell what it was asked. Kinds: `unreachable`, `timeout`, `status_429` and the like,
    `too_large`, `malformed`, `unknown` (it answers that it does not know), `syncing`, `not_configured`."""

    def __init__(self, kind: str, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a source answered, and when it was known to be so: an answer from memory is as old as it is."""

    body: bytes
    fetched_at: datetime

    def json(self) -> Any:
        """The answer as data. Raises `SourceError` (malformed)."""
        return data_of(self.body)

    def text(self) -> str:
        """The answer as text. Raises `SourceError` (malformed)."""
        return text_of(self.body)


def data_of(body: bytes) -> Any:
    """JSON as data. Raises `SourceError` (malformed)."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SourceError("malformed", f"not JSON: {body[:60]!r}") from error


def text_of(body: bytes) -> str:
    """UTF-8 as text, without a byte order mark. Raises `SourceError` (malformed)."""
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError("malformed", "not UTF-8") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cached:
    page: Page
    etag: str | None
    expires_at: datetime | None


class Fetcher:
    """The one HTTP client of the agent. An async context manager."""

    def __init__(self, clock: Clock, *, timeout_s: float = TIMEOUT_S) -> None:
        self.clock = clock
        self._timeout_s = timeout_s
        self._cache: dict[str, _Cached] = {}
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        # loading certificates takes its time, and would block the loop
        self._client = await asyncio.to_thread(
            httpx.AsyncClient,
            timeout=self._timeout_s,
            follow_redirects=False,
            headers={"User-Agent": USER_AGENT},
            limits=httpx.Limits(max_connections=10, max_keepalive_connections=4),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def get(self, url: str, *, headers: dict[str, str] | None = None, fresh: bool = False) -> Page:
        """Fetch a page; what its source said not to have changed comes from memory, unless it is to be
        `fresh`. Raises `SourceError`."""
        cached, now = self._cache.get(url), self.clock.now()
        if not fresh and cached is not None and cached.expires_at is not None and now < cached.expires_at:
            return cached.page
        asked = dict(headers or {})
        if cached is not None and cached.etag is not None:
            asked["If-None-Match"] = cached.etag
        response, body = await self._send("GET", url, headers=asked)
        if response.status_code == HTTPStatus.NOT_MODIFIED and cached is not None:
            body = cached.page.body
        elif response.status_code != HTTPStatus.OK:
            raise _status_error(response)
        page = Page(body=body, fetched_at=now)
        etag = response.headers.get("ETag") or (None if cached is None else cached.etag)
        self._cache.pop(url, None)
        self._cache[url] = _Cached(page=page, etag=etag, expires_at=_expires_at(response, now))
        if len(self._cache) > CACHED_PAGES:  # addresses may carry a date
            del self._cache[next(iter(self._cache))]
        return page

    async def post(self, url: str, payload: Any, *, auth: tuple[str, str] | None = None) -> Page:
        """Send JSON and take the answer. Raises `SourceError`."""
        response, body = await self._send("POST", url, payload=payload, auth=auth)
        if response.status_code != HTTPStatus.OK:
            raise _status_error(response)
        return Page(body=body, fetched_at=self.clock.now())

    async def post_form(self, url: str, fields: dict[str, str]) -> Page:
        """Send a form and take the answer. Raises `SourceError`."""
        response, body = await self._send("POST", url, form=fields)
        if response.status_code != HTTPStatus.OK:
            raise _status_error(response)
        return Page(body=body, fetched_at=self.clock.now())

    async def _send(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        payload: Any = None,
        form: dict[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> tuple[httpx.Response, bytes]:
        assert self._client is not None  # noqa: S101 - entered
        try:
            async with asyncio.timeout(self._timeout_s):
                for _ in range(REDIRECTS + 1):
                    async with self._client.stream(
                        method, url, headers=headers, json=payload, data=form, auth=auth
                    ) as response:
                        target = _redirect(response) if method == "GET" else None
                        if target is None:
                            return response, await _bounded(response)
                        if not _same_origin(target, response.url):
                            headers = None  # keys are for the source that they were given for
                        url = str(target)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise SourceError("timeout", f"no whole answer within {self._timeout_s:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise SourceError("unreachable", f"{type(error).__name__}: {error}") from error
        raise SourceError("unreachable", f"more than {REDIRECTS} redirects")


def _redirect(response: httpx.Response) -> httpx.URL | None:
    """Where an answer sends us; None if it does not."""
    if not response.has_redirect_location:
        return None
    return response.url.join(response.headers["Location"])


def _same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


async def told(asking: Awaitable[T]) -> T:
    """What a source tells. Whatever else is wrong with its answer than what was looked for is an answer that makes no
    sense. Raises `SourceError`."""
    try:
        return await asking
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, csv.Error) as error:
        raise SourceError("malformed", f"{type(error).__name__}: {error}") from error


async def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > LIMIT_BYTES:
            raise SourceError("too_large", f"more than {LIMIT_BYTES // 1024} KiB")
    return bytes(body)


def _status_error(response: httpx.Response) -> SourceError:
    code = response.status_code
    return SourceError(f"status_{code}", f"HTTP {code}", retry_after_s=_retry_after_s(response))


def _retry_after_s(response: httpx.Response) -> float | None:
    """What it asks for: seconds, or a date, which is measured by its own clock."""
    wait = response.headers.get("Retry-After", "")
    if wait.isdigit():
        return float(wait)
    try:
        until, sent = parsedate_to_datetime(wait), parsedate_to_datetime(response.headers["Date"])
        return max(0.0, (until - sent).total_seconds())
    except (KeyError, ValueError, TypeError):
        return None


def _expires_at(response: httpx.Response, now: datetime) -> datetime | None:
    """Until when its source says that an answer stands; never for long, whatever it says."""
    control = response.headers.get("Cache-Control", "")
    if "no-store" in control or "no-cache" in control:
        return None
    for part in control.split(","):
        name, _, value = part.strip().partition("=")
        if name == "max-age" and value.isdigit():
            return now + min(timedelta(seconds=min(int(value), 86_400)), LONGEST_CACHE)
    try:
        expires = parsedate_to_datetime(response.headers["Expires"])
        sent = parsedate_to_datetime(response.headers["Date"])
        return now + min(max(expires - sent, timedelta()), LONGEST_CACHE)
    except (KeyError, ValueError, TypeError):  # no date, or a zone in one of them only
        return None


def pause_s(
    interval_s: float, failures: int, retry_after_s: float | None, *, longest_s: float = 900.0
) -> float:
    """Seconds until a source is asked again: its interval, twice as long after each failure in a row, never
    sooner than it asked for, and up to a tenth later by chance."""
    waits_s = min(interval_s * 2.0 ** min(failures, 10), max(longest_s, interval_s))
    asked_s = 0.0 if retry_after_s is None else min(retry_after_s, LONGEST_RETRY_AFTER_S)
    return max(waits_s, asked_s) * (1 + random.uniform(0.0, 0.1))

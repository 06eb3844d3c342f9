"""Power price from a feed or a file: asked for at its own pace, judged, and made into what a kWh costs the site."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from agent.fetch import Fetcher, Page, SourceError, told
from agent.market.health import Health
from agent.market.quote import PowerPriceQuote, PriceState, SourceStatus
from agent.mqtt import Subscription
from agent.supervision import pause
from agent.tariff import feeds
from agent.tariff.account import ErcotAccount
from agent.tariff.contract import Contract
from agent.tariff.intervals import (
    Band,
    IntervalPrice,
    absurd,
    contradicts,
    expected_settlement,
    floor,
    is_of_known_times,
    settled,
)

KEEP = timedelta(hours=36)
FIRST_MESSAGE_S = 3.0
HELD_AGE = timedelta(hours=6)
"""For so long the last price is shown and recommended on; nothing is done on it."""


class Publication(Protocol):
    """Where interval prices are published."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def address(self) -> str:
        """Where it is."""

    async def prices(self, now: datetime) -> list[IntervalPrice]:
        """What it says now. Raises `SourceError`."""

    async def pause(self, seconds: float) -> None:
        """Wait so long for something new, or shorter where news are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebFeed:
    """A market's feed over HTTP."""

    name: str
    address: str
    market: feeds.Market
    wanted: feeds.Wanted
    fetcher: Fetcher
    headers: Mapping[str, str] = field(repr=False)
    account: ErcotAccount | None = None

    async def prices(self, now: datetime) -> list[IntervalPrice]:
        """Ask the feed, once more if its token expired. Raises `SourceError`."""
        try:
            page = await self._ask(now)
        except SourceError as error:
            if self.account is None or error.kind not in {"status_401", "status_403"}:
                raise
            self.account.refused()
            page = await self._ask(now)
        return self.market.parse(page.body, self.wanted, page.fetched_at)

    async def _ask(self, now: datetime) -> Page:
        token = {} if self.account is None else await self.account.headers(self.fetcher)
        return await self.fetcher.get(
            self.address + self.market.path(self.wanted, now), headers={**self.headers, **token}
        )

    async def pause(self, seconds: float) -> None:
        """Nobody tells news: wait."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceFile:
    """A CSV file on this host, read again each time: somebody else writes it."""

    name: str
    address: str
    wanted: feeds.Wanted

    async def prices(self, now: datetime) -> list[IntervalPrice]:
        """Read the file. Raises `SourceError`."""
        try:
            body = await asyncio.to_thread(Path(self.address).read_bytes)
        except OSError as error:
            raise SourceError("unreachable", f"cannot be read ({error.strerror})") from error
        return feeds.table(body, self.wanted, now)

    async def pause(self, seconds: float) -> None:
        """Nobody tells news: wait."""
        await asyncio.sleep(seconds)


class TopicPrices:
    """A topic of a broker whose messages hold a price, alone or in JSON. A price without a time of its own holds for
    the interval in which it came; what a broker retained has no age without one, and is not used."""

    def __init__(self, subscription: Subscription, wanted: feeds.Wanted) -> None:
        self.subscription = subscription
        self.name = "mqtt"
        self.address = f"{subscription.broker.address}/{subscription.topic}"
        self._wanted = wanted

    async def prices(self, now: datetime) -> list[IntervalPrice]:
        """The latest message. Raises `SourceError`."""
        await pause(self.subscription.settled, FIRST_MESSAGE_S)
        self.subscription.news.clear()
        heard = self.subscription.latest()
        begin = floor(heard.at, self._wanted.interval)
        prices = feeds.json_page(heard.body, self._wanted, begin)
        timeless = not self._wanted.time_pointer and [each.start for each in prices] == [begin]
        if heard.retained and timeless:
            raise SourceError("unknown", "the broker kept this message, which does not say of when it is")
        return prices

    async def pause(self, seconds: float) -> None:
        """Until a message comes, or so long."""
        await pause(self.subscription.news, seconds)


class LiveTariff:
    """A `PowerPriceSource` on a publication. `run` asks it until cancelled; `quote` never waits."""

    def __init__(
        self,
        publication: Publication,
        contract: Contract,
        *,
        band: Band,
        settlement: timedelta,
        max_age: timedelta,
        interval_s: float,
        speed: float = 1.0,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.publication = publication
        self._contract = contract
        self._band = band
        self._settlement = settlement
        self._max_age = max_age
        self._interval_s = interval_s
        self._speed = speed
        self._on_progress = on_progress
        self._prices: list[IntervalPrice] = []
        self._doubt: str | None = None
        self._contradicted: str | None = None
        self._heard_at: datetime | None = None
        self._late = timedelta()
        self._heard = asyncio.Event()
        self._health = Health(publication.name, publication.address)

    @property
    def status(self) -> SourceStatus:
        """How the publication is doing."""
        return self._health.status

    async def run(self, now: Callable[[], datetime]) -> None:
        """Ask again and again."""
        while True:
            await self.ask(now())
            self._on_progress()
            await self.publication.pause(self._health.pause_s(self._interval_s) / self._speed)

    async def first_answers(self, timeout_s: float) -> None:
        """Until it has answered or failed once, at most for so long."""
        await pause(self._heard, timeout_s)

    async def ask(self, now: datetime) -> None:
        """Ask once, and take in what is said."""
        try:
            self._take(await told(self.publication.prices(now)), now)
        except SourceError as error:
            self._health.failed(error, now)
        else:
            self._health.well()
        finally:
            self._heard.set()

    def _take(self, prices: Sequence[IntervalPrice], now: datetime) -> None:
        self._doubt = absurd(prices, self._band) or self._contradiction(prices, now)
        if self._doubt is not None:
            raise SourceError("implausible", self._doubt)
        newest = max(each.start for each in prices)
        if self._prices and newest > self._prices[-1].start:  # the first of all may have been there for long
            self._late = max(timedelta(), now - newest)
        known = {each.start: each for each in self._prices if now - each.end < KEEP}
        self._prices = sorted((known | {each.start: each for each in prices}).values())
        self._heard_at = now
        self._health.said(f"{len(prices)} prices, the last for {prices[-1].start:%H:%M} UTC", now)

    def _contradiction(self, prices: Sequence[IntervalPrice], now: datetime) -> str | None:
        """Whether the feed tells the past otherwise than before. It stays in doubt until it tells it as before, or
        until what was known before is too old to stand against it."""
        self._contradicted = contradicts(prices, self._prices) or (
            None if is_of_known_times(prices, self._prices) else self._contradicted
        )
        old = self._heard_at is None or now - self._heard_at > HELD_AGE
        return None if old else self._contradicted

    async def quote(self, now: datetime) -> PowerPriceQuote | None:
        """What a kWh costs now, as far as it is known; None if it is not."""
        market = expected_settlement(self._prices, now, self._settlement, self._max_age)
        if market is not None:
            state = PriceState.LIVE if self._doubt is None else PriceState.QUARANTINED
            told = floor(max(each.start for each in self._prices if each.start <= now), self._settlement)
            return replace(
                self._quote(market, now, state, self._doubt or ""),
                late_s=self._late.total_seconds(),
                next_at=told + self._settlement + self._late,
            )
        last = max((each for each in self._prices if each.end <= now), default=None)
        if last is None or now - last.end > HELD_AGE:
            return None
        held = replace(last, end=last.end + HELD_AGE)
        return self._quote(held, last.start, PriceState.HELD, "its source says nothing new, the last is held")

    def settled(self, now: datetime) -> list[IntervalPrice]:
        """What the settlement intervals of the last day and a half really cost the site, as far as they are over and
        published whole; nothing while what the feed says is in doubt."""
        if self._doubt is not None:
            return []
        return [
            replace(each, usd_per_kwh=self._contract.marginal_usd_per_kwh(each.usd_per_kwh))
            for each in settled(self._prices, self._settlement, now)
        ]

    def _quote(
        self, market: IntervalPrice, observed_at: datetime, state: PriceState, detail: str
    ) -> PowerPriceQuote:
        return PowerPriceQuote(
            price_usd_per_kwh=self._contract.marginal_usd_per_kwh(market.usd_per_kwh),
            source=self.publication.name,
            observed_at=min(observed_at, self._heard_at or observed_at),
            valid_until=market.end,
            state=state,
            automatic=state is PriceState.LIVE,
            detail=detail,
            market_usd_per_kwh=market.usd_per_kwh,
        )

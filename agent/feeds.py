"""The agent's prices and calls: the sources that the configuration names, kept asked for as long as the agent lives."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from agent.clock import Clock
from agent.config import Config
from agent.config.mqtt import MqttSection
from agent.config.power import PowerSection
from agent.fetch import Fetcher
from agent.grid import GridCallers
from agent.market.fixed import FixedHashprice
from agent.market.live import LiveHashprice
from agent.market.quote import (
    Figure,
    HashpriceQuote,
    HashpriceSource,
    PowerPriceSource,
    PriceState,
    SourceStatus,
)
from agent.mqtt import Subscription
from agent.supervision import Pulse, supervise
from agent.tariff.fixed import FixedTariff
from agent.tariff.live import LiveTariff, PriceFile, Publication, TopicPrices, WebFeed
from agent.tariff.time_of_use import TimeOfUseTariff

FIRST_ANSWERS_S = 5.0
"""How long the first round waits for prices; it goes on without them."""
POWER_PRICE, POWER_TOPIC = "power_price", "power_topic"
PROGRESS_S = 3600.0
"""A source that fails is asked more and more rarely, but more often than this, unless it is configured to be asked more
rarely still."""


class Feeds:
    """Hashprice and power price of a configuration. An async context manager: entering begins to ask live sources,
    and waits a little for their first answers."""

    def __init__(self, config: Config, clock: Clock, pulse: Pulse) -> None:
        self._clock = clock
        self._pulse = pulse
        self._fetcher = Fetcher(clock)
        self._tasks: list[asyncio.Task[None]] = []
        openadr = config.obligations.openadr
        self._slowest_s = max(config.power.poll_s, 0.0 if openadr is None else openadr.poll_s)
        self._group = asyncio.TaskGroup()
        self._live: LiveHashprice | None = None
        if config.market.source == "live":
            self._live = LiveHashprice(
                config.market.endpoints(), self._fetcher, on_progress=lambda: self._beat("hashprice")
            )
        self.hashprice: HashpriceSource = self._live or FixedHashprice(**config.market.fixed())
        self.power: PowerPriceSource = power_source(
            config.power, self._fetcher, clock, config.mqtt, on_progress=self._beat
        )
        self.grid = GridCallers(config.obligations, config.mqtt, self._fetcher, clock, on_progress=self._beat)

    async def __aenter__(self) -> Self:
        live, tariff = self._live, self.power
        if live is None and not isinstance(tariff, LiveTariff) and not self.grid.loops:
            return self
        await self._fetcher.__aenter__()
        await self._group.__aenter__()
        if live is not None:
            self._supervise("hashprice", live.run)
            await live.first_answers(FIRST_ANSWERS_S)
        for name, loop in self.grid.loops.items():
            self._supervise(name, loop)
        if isinstance(tariff, LiveTariff):
            if isinstance(tariff.publication, TopicPrices):
                self._supervise(POWER_TOPIC, tariff.publication.subscription.run)
            self._supervise(POWER_PRICE, lambda: tariff.run(self._clock.now))
            await tariff.first_answers(FIRST_ANSWERS_S)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        try:
            await self._group.__aexit__(kind, error, trace)
        finally:
            await self._fetcher.__aexit__()

    def _beat(self, name: str) -> None:
        self._pulse.beat(name, next_within_s=max(PROGRESS_S, 2 * self._slowest_s))

    def _supervise(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(self._group.create_task(supervise(name, run, pulse=self._pulse)))

    def remember(self, figures: Sequence[Figure]) -> None:
        """What was accepted before the agent began: a first word that jumps from it is not believed alone."""
        if self._live is not None:
            self._live.remember(figures)

    def figures(self, quote: HashpriceQuote | None) -> Sequence[Figure]:
        """Each number behind the hashprice, those that are missing too."""
        return fixed_figures(quote) if self._live is None else self._live.figures

    def statuses(self) -> list[SourceStatus]:
        """How each live source is doing; none where all prices are fixed."""
        found = [] if self._live is None else self._live.statuses()
        tariff = [self.power.status] if isinstance(self.power, LiveTariff) else []
        return [*found, *tariff, *self.grid.statuses()]


def fixed_figures(quote: HashpriceQuote | None) -> list[Figure]:
    """The numbers of a quote that somebody wrote down."""
    if quote is None:
        return []
    values = {
        "difficulty": quote.difficulty,
        "height": float(quote.height),
        "fees_btc": quote.fees_btc,
        "btc_usd": quote.btc_usd,
    }
    return [
        Figure(
            name=name,
            value=value,
            source=quote.source,
            observed_at=quote.observed_at,
            state=PriceState.FIXED,
            automatic=True,
        )
        for name, value in values.items()
    ]


def power_source(
    power: PowerSection,
    fetcher: Fetcher,
    clock: Clock,
    mqtt: MqttSection | None = None,
    *,
    on_progress: Callable[[str], None] = lambda _name: None,
) -> PowerPriceSource:
    """The source of power prices that the configuration asks for."""
    contract = power.terms_of_contract()
    match power.kind:
        case "fixed":
            return FixedTariff(price_usd_per_kwh=contract.marginal_usd_per_kwh(power.price_usd_per_kwh))
        case "time_of_use":
            return TimeOfUseTariff(calendar=power.calendar(), contract=contract)
        case "file":
            publication: Publication = PriceFile(name="file", address=power.file, wanted=power.wanted())
        case "mqtt":
            broker = (mqtt or MqttSection()).broker()
            heard = Subscription(broker, power.topic, clock.now, on_progress=lambda: on_progress(POWER_TOPIC))
            publication = TopicPrices(heard, power.wanted())
        case _:
            publication = WebFeed(
                name=power.feed,
                address=(power.url or power.market().url).rstrip("/"),
                market=power.market(),
                wanted=power.wanted(),
                fetcher=fetcher,
                headers={"Ocp-Apim-Subscription-Key": power.secret()} if power.has_secret else {},
                account=None if power.account is None else power.account.account(),
            )
    return LiveTariff(
        publication,
        contract,
        band=power.band(),
        settlement=power.settlement(),
        max_age=timedelta(seconds=power.max_age_s),
        interval_s=power.poll_s,
        speed=clock.speed,
        on_progress=lambda: on_progress(POWER_PRICE),
    )

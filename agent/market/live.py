"""Hashprice by the consensus of live sources: asks each at its own pace, and judges what they said last."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from agent.fetch import Fetcher, SourceError, told
from agent.market.consensus import Consensus, Kind, Observation, agree
from agent.market.health import Health
from agent.market.quote import Figure, HashpriceQuote, SourceStatus
from agent.market.sources import Ask, Endpoint, known_sources
from agent.supervision import pause

INTERVAL_S = 60.0
"""A source is asked no more often than this, by the agent's clock."""


@dataclass(slots=True)
class _Source:
    ask: Ask
    endpoint: Endpoint
    health: Health
    said: Sequence[Observation] = ()


class LiveHashprice:
    """A `HashpriceSource` on live sources. `run` asks them until cancelled; `quote` never waits."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        fetcher: Fetcher,
        *,
        interval_s: float = INTERVAL_S,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._fetcher = fetcher
        self._interval_s = interval_s
        self._on_progress = on_progress
        known = known_sources()
        self._sources = [
            _Source(ask=known[each.name], endpoint=each, health=Health(each.name, each.url))
            for each in endpoints
        ]
        self._accepted: Mapping[Kind, Figure] = {}
        self.figures: Sequence[Figure] = ()
        """Each number as it was judged last."""
        self._silent = {each.name for each in endpoints}
        self._all_heard = asyncio.Event()

    async def run(self) -> None:
        """Ask every source again and again."""
        async with asyncio.TaskGroup() as group:
            for source in self._sources:
                group.create_task(self._ask_for_ever(source))

    async def first_answers(self, timeout_s: float) -> None:
        """Until every source has answered or failed once, at most for so long."""
        await pause(self._all_heard, timeout_s)

    async def _ask_for_ever(self, source: _Source) -> None:
        while True:
            await self._ask(source)
            self._on_progress()
            self._silent.discard(source.endpoint.name)
            if not self._silent:
                self._all_heard.set()
            await asyncio.sleep(source.health.pause_s(self._interval_s) / self._fetcher.clock.speed)

    async def _ask(self, source: _Source) -> None:
        now = self._fetcher.clock.now
        try:
            source.said = await told(source.ask(self._fetcher, source.endpoint))
        except SourceError as error:
            source.said = ()  # what was accepted of it is held; it is no witness against those that answer
            source.health.failed(error, now())
            return
        source.health.well()
        values = ", ".join(f"{each.kind.value} {each.value:.10g}" for each in source.said)
        source.health.said(values, now())

    def remember(self, figures: Sequence[Figure]) -> None:
        """Take these for accepted."""
        names = {kind.value for kind in Kind}
        self._accepted = {Kind(each.name): each for each in figures if each.name in names} | dict(
            self._accepted
        )

    def statuses(self) -> list[SourceStatus]:
        """How each source is doing."""
        return [source.health.status for source in self._sources]

    def consensus(self, now: datetime) -> Consensus:
        """What is believed now of what they said last; what is accepted is remembered."""
        said = [each for source in self._sources for each in source.said]
        agreed = agree(said, self._accepted, now)
        self._accepted, self.figures = agreed.accepted, agreed.figures
        return agreed

    async def quote(self, now: datetime) -> HashpriceQuote | None:
        """The consensus; None while a number is missing."""
        return self.consensus(now).quote

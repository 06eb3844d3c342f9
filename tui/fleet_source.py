"""A fleet for the terminal: the copy of each site, read as a site's own database is."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent.database import StoreError
from agent.federation.fleet_database import State, read_state, site_databases
from agent.federation.overview import SiteView
from tui.source import AgentState, Source


class CopySource(Source):
    """A copy of a site: its agent is elsewhere, and cannot be asked."""

    async def agent(self) -> AgentState:
        """Nothing is known but what it told."""
        return AgentState()


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetState:
    """All that the screens of a fleet show."""

    sites: Sequence[SiteView]
    stream: State


class FleetSource:
    """Reads every copy, each in a thread of its own: all of it once, then what changed."""

    def __init__(self, directory: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._directory = directory
        self._clock = clock
        self._sources: dict[str, CopySource] = {}
        self._stream = State()

    def close(self) -> None:
        """Close every copy."""
        for source in self._sources.values():
            source.close()

    async def state(self) -> FleetState:
        """Every site now; one that cannot be read says why."""
        try:
            databases = await asyncio.to_thread(lambda: list(site_databases(self._directory)))
            self._stream = await asyncio.to_thread(read_state, self._directory)
        except StoreError as error:
            known = self._sources or [str(self._directory)]
            sites = [SiteView(site=name, stored=None, problem=str(error)) for name in known]
            return FleetState(sites=sites, stream=self._stream)
        return FleetState(sites=[await self._site(*each) for each in databases], stream=self._stream)

    async def _site(self, name: str, database: Path) -> SiteView:
        source = self._sources.setdefault(name, CopySource(database, clock=self._clock))
        try:
            snapshot = (await source.state()).snapshot
        except StoreError as error:
            return SiteView(site=name, stored=None, problem=str(error))
        return SiteView(site=name, stored=snapshot, problem=None)

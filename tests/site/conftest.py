"""A whole site for a test: simulated machines on loopback addresses and the real agent against them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from agent.clock import Clock
from agent.config import Config, PollSection, ScanSection
from agent.service import Agent
from drivers.simulator.site import Site, SiteSpec

NETWORK = "127.90.0.0/16"


@pytest.fixture(autouse=True)
def no_blocking_calls():
    """Fail on any blocking call that the agent makes on the event loop."""
    blockbuster = BlockBuster(scanned_modules=["agent"])
    blockbuster.activate()
    yield
    blockbuster.deactivate()


StartSite = Callable[..., Awaitable[Site]]
StartAgent = Callable[..., Awaitable[Agent]]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def start_site(stack: AsyncExitStack) -> StartSite:
    async def start(**spec) -> Site:
        return await stack.enter_async_context(Site(SiteSpec(network=NETWORK, **spec)))

    return start


@pytest.fixture
def start_agent(stack: AsyncExitStack, tmp_path: Path) -> StartAgent:
    async def start(site: Site, *, interval_s: float = 2.0, deadline_s: float = 2.0) -> Agent:
        config = Config(
            scan=ScanSection(addresses=site.scan_targets),
            poll=PollSection(interval_s=interval_s, deadline_s=deadline_s),
        )
        clock = Clock(now=site.now, speed=site.spec.speed)
        return await stack.enter_async_context(Agent(config, tmp_path / "hashcost.db", clock=clock))

    return start

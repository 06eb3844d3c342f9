"""A whole site for a test: simulated machines on loopback addresses and the real agent against them."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster

from agent.clock import Clock
from agent.config import Config, CurtailmentSection, PollSection, ScanSection
from agent.curtailment import Mode
from agent.rehearsal import MovablePrice
from agent.service import Agent
from drivers.simulator.machine import CommandRecord, MachineTruth, SimulatedMachine
from drivers.simulator.site import Site, SiteSpec

NETWORK = "127.90.0.0/16"
CHEAP, DEAR = 0.01, 0.5
"""Power prices, USD/kWh, at which every machine earns and at which every machine loses, beyond all error bands."""
STEP_S = 60.0
"""Seconds of the site between two rounds."""


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
        time = asyncio.get_running_loop().time  # it stands still where the host does
        return await stack.enter_async_context(Site(SiteSpec(network=NETWORK, **spec), monotonic=time))

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


class HandClock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(kw_only=True)
class Theatre:
    """A site whose time stands still but for the steps between the agent's rounds: nothing depends on how fast the
    host is, and an hour of the site takes as long as its rounds take to compute."""

    site: Site
    clock: HandClock
    database: Path
    price: MovablePrice
    step_s: float = STEP_S
    policy: dict[str, Any] = field(default_factory=dict)

    def new_agent(
        self, kind: type[Agent] = Agent, *, deadline_s: float = 5.0, write_s: float = 1.0, **arguments: Any
    ) -> Agent:
        """An agent in mode auto, not entered yet, that has every machine asleep or awake as soon as it may."""
        policy = {
            "switching_cost_usd": 0.0, "min_on_s": 0.0, "min_off_s": 0.0, "ramp_kw_per_min": 1e6, **self.policy,
        }  # fmt: skip
        config = Config(
            scan=ScanSection(addresses=self.site.scan_targets),
            poll=PollSection(interval_s=10.0, deadline_s=deadline_s),
            curtailment=CurtailmentSection(mode=Mode.AUTO, **policy),
        )
        clock = Clock(now=self.site.now, speed=self.step_s / 10.0)
        agent = kind(config, self.database, clock=clock, power=self.price, **arguments)
        # no key of the configuration: nobody but a test is in a hurry
        agent._read_options = replace(agent._read_options, write_s=write_s)
        return agent

    def pass_time(self, seconds: float) -> None:
        """Let time pass on the site."""
        self.clock.now_s += seconds / self.site.spec.speed

    async def rounds(
        self, agent: Agent, until: Callable[[], bool], *, most: int = 90, quiet: int = 2
    ) -> None:
        """Poll until a condition held for some rounds in a row; so many rounds without it fail the test."""
        held = 0
        for _ in range(most):
            self.pass_time(self.step_s)
            await agent.poll_once()
            await commands_sent(agent)
            held = held + 1 if until() else 0
            if held > quiet:
                return
        failed = [order for order in agent.reconciler.all() if order.failure or order.is_open]
        asleep = sorted(agent.reconciler.standing())
        raise AssertionError(f"not within {most} rounds: asleep {asleep}, open or failed {failed[:4]}")

    async def priced(
        self, agent: Agent, price_usd_per_kwh: float, *, standing: int | None = None, **limits: int
    ) -> None:
        """Set the power price, then poll until no order is open and so many machines sleep on one."""
        self.price.price_usd_per_kwh = price_usd_per_kwh

        def done() -> bool:
            asleep = len(agent.reconciler.standing())
            return not agent.reconciler.open_orders() and standing in (None, asleep)

        await self.rounds(agent, done, **limits)

    def writes(self, machine: SimulatedMachine) -> list[str]:
        """What a machine was sent that changes something, by anybody but its site's operator."""
        return writes(machine.truth())


async def commands_sent(agent: Agent) -> None:
    """Wait until every command that is being sent was answered, or given up."""
    while agent.reconciler._sending:
        await asyncio.sleep(0.01)


def writes(truth: MachineTruth) -> list[str]:
    """The commands in a machine's log that change something: sleep, wake or what else, in their order."""
    return [
        _meaning(command)
        for command in truth.commands
        if command.writes and not command.kind.startswith("operator:")
    ]


def _meaning(command: CommandRecord) -> str:
    said = f"{command.kind} {command.summary}"
    if re.search(r"v2:power_off|v3:set\.miner\.service stop|mode['\"]?[=:] ?['\"]?1\b", said):
        return "sleep"
    if re.search(r"v2:power_on|v3:set\.miner\.service start|mode['\"]?[=:] ?['\"]?[03]\b", said):
        return "wake"
    return "unreadable" if command.kind == "v2:?" else said


@pytest.fixture
def start_theatre(stack: AsyncExitStack, tmp_path: Path) -> Callable[..., Awaitable[Theatre]]:
    async def start(policy: dict[str, Any] | None = None, **spec: Any) -> Theatre:
        return await stack.enter_async_context(theatre(tmp_path / "hashcost.db", policy=policy, **spec))

    return start


@asynccontextmanager
async def theatre(
    database: Path,
    *,
    policy: dict[str, Any] | None = None,
    network: str = NETWORK,
    step_s: float = STEP_S,
    **spec: Any,
) -> AsyncIterator[Theatre]:
    """A site whose clock is moved by hand; energy is cheap at first."""
    clock = HandClock()
    async with Site(SiteSpec(network=network, speed=60.0, **spec), monotonic=clock) as site:
        yield Theatre(
            site=site,
            clock=clock,
            database=database,
            price=MovablePrice(CHEAP),
            step_s=step_s,
            policy=policy or {},
        )

"""The agent is killed at every point of an order's life, and the real process at many: nothing is lost, and nothing
harmful is repeated. The witness is the simulator's own log of the commands that it received."""

import asyncio
import contextlib
import json
import os
import random
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.orders import Order, OrderAction, OrderState
from agent.service import Agent
from agent.store import Reader
from drivers.reading import Family, RunState
from drivers.simulator.control import SiteControl
from drivers.simulator.machine import CommandRecord, MachineTruth
from tests import loops
from tests.site.conftest import CHEAP, DEAR, Theatre, theatre, writes

ROOT = Path(__file__).parents[2]
FAMILY_TIME_S = {
    ("sleep", Family.ANTMINER): 180.0,
    ("wake", Family.ANTMINER): 900.0,
    ("sleep", Family.WHATSMINER_V2): 60.0,
    ("wake", Family.WHATSMINER_V2): 720.0,
    ("sleep", Family.WHATSMINER_V3): 60.0,
    ("wake", Family.WHATSMINER_V3): 720.0,
}
"""Within which a command that was taken may not be repeated."""


# -- in this process: at every single step ---------------------------------------------------------------


class Fate:
    """Counts the steps that an agent takes in the world, and stops it for ever at one of them."""

    def __init__(self, fatal_step: int | None = None) -> None:
        self.steps: list[str] = []
        self.died = asyncio.Event()
        self._fatal_step = fatal_step

    async def step(self, name: str) -> None:
        """Go on living, or not."""
        if len(self.steps) == self._fatal_step:
            self.died.set()
        self.steps.append(name)
        if self.died.is_set():
            await asyncio.Event().wait()  # nothing of a dead process happens any more


class Mortal:
    """A store or a driver of an agent that can die right before and right after some of its methods."""

    def __init__(self, inner: Any, fate: Fate, methods: Sequence[str]) -> None:
        self._inner, self._fate, self._methods = inner, fate, methods

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._methods:
            return found

        async def mortal(*arguments: Any) -> Any:
            await self._fate.step(f"before {name}")
            result = await found(*arguments)
            await self._fate.step(f"after {name}")
            return result

        return mortal


class MortalAgent(Agent):
    """An agent that dies when its fate has it."""

    def __init__(self, *arguments: Any, fate: Fate, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._fate = fate

    async def __aenter__(self) -> "MortalAgent":
        await super().__aenter__()
        store: Any = self.reconciler._store
        self.reconciler._store = Mortal(
            store, self._fate, ("create_all", "advance", "supersede", "advance_both")
        )
        return self

    def _driver(self, machine_id: str) -> Any:
        return Mortal(super()._driver(machine_id), self._fate, ("restore_point", "sleep", "wake"))


async def live(stage: Theatre, fate: Fate) -> bool:
    """One life of the agent, from the database to the end of the story or its own; whether the story ended."""
    story, death = asyncio.create_task(_story(stage, fate)), asyncio.create_task(fate.died.wait())
    await asyncio.wait({story, death}, return_when=asyncio.FIRST_COMPLETED)
    death.cancel()
    if not fate.died.is_set():
        await story
        return True
    story.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await story
    return False


async def _story(stage: Theatre, fate: Fate) -> None:
    """The site is curtailed, then restored; a later life goes on where an earlier one ended."""
    machines = len(stage.site.machines)
    async with stage.new_agent(MortalAgent, fate=fate) as agent:
        if len(agent.fleet) < machines:
            await agent.scan()
        if stage.price.price_usd_per_kwh == DEAR:
            await stage.priced(agent, DEAR, standing=machines, quiet=1)
        await stage.priced(agent, CHEAP, standing=0, quiet=1)


async def lives(database: Path, fatal_steps: Sequence[int | None]) -> list[str]:
    """Tell the story on one machine of each family with these deaths, then to its end. The steps of the first life."""
    async with theatre(database, machines=3, seed=3, network="127.92.0.0/16") as stage:
        before = {machine.mac: machine.truth() for machine in stage.site.machines}
        stage.price.price_usd_per_kwh = DEAR
        steps: list[str] = []
        for fatal_step in (*fatal_steps, None):
            fate = Fate(fatal_step)
            ended = await live(stage, fate)
            steps = steps or fate.steps
            if ended:
                break
        after = [machine.truth() for machine in stage.site.machines]
    for truth in after:
        check_machine(before[truth.mac], truth)
    await asyncio.to_thread(check_orders, database, machines=3)
    return steps


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> list[str]:
    """What an agent does that nobody disturbs."""
    return loops.run(lives(tmp_path_factory.mktemp("dry") / "hashcost.db", []))


def test_the_steps_of_an_undisturbed_life_are_those_of_orders(steps):
    """Three machines: orders are created together; each is sent after it was stored as being sent, and confirmed."""
    assert Counter(steps) == {
        **{f"{when} create_all": 2 for when in ("before", "after")},
        **{
            f"{when} {what}": 3 for when in ("before", "after") for what in ("restore_point", "sleep", "wake")
        },
        **{f"{when} advance": 15 for when in ("before", "after")},
        **{f"{when} advance_both": 3 for when in ("before", "after")},
    }


SHARES = 8


@pytest.mark.parametrize("share", range(SHARES))
async def test_killed_at_any_step_nothing_is_lost_and_nothing_repeated(steps, share, tmp_path):
    for fatal_step in range(share, len(steps), SHARES):
        try:
            await lives(tmp_path / f"{fatal_step}.db", [fatal_step])
        except AssertionError as error:
            raise AssertionError(f"killed at step {fatal_step}, {steps[fatal_step]}: {error}") from error


@pytest.mark.parametrize("seed", range(SHARES))
async def test_killed_twice_nothing_is_lost_and_nothing_repeated(steps, seed, tmp_path):
    """The second time early in the second life, where it still sorts out what the first one left."""
    chance = random.Random(seed)
    for number in range(3):
        deaths = [chance.randrange(len(steps)), chance.randrange(len(steps) // 2)]
        try:
            await lives(tmp_path / f"{number}.db", deaths)
        except AssertionError as error:
            raise AssertionError(f"killed at steps {deaths}: {error}") from error


def check_machine(before: MachineTruth, after: MachineTruth) -> None:
    """One sleep, one wake, everything as it was."""
    assert writes(after) == ["sleep", "wake"], after.mac
    assert after.run_state is RunState.MINING
    assert (after.power_mode, after.pools) == (before.power_mode, before.pools)


def check_orders(database: Path, *, machines: int) -> None:
    """Every machine has one sleep that was confirmed and released, and one confirmed wake; no order is open. Orders
    that were withdrawn before they were sent, as when a machine was out of reach, are as if there had been none."""
    found = Counter(
        (order.machine_id, order.action, order.state)
        for order in orders_in(database)
        if order.state is not OrderState.EXPIRED or order.dispatched_at is not None
    )
    assert set(found.values()) == {1}, found
    assert Counter((action, state) for _, action, state in found) == {
        (OrderAction.SLEEP, OrderState.RELEASED): machines,
        (OrderAction.WAKE, OrderState.CONFIRMED): machines,
    }


def orders_in(database: Path) -> list[Order]:
    with Reader(database) as reader:
        return reader.orders(10_000)


# -- the real process ------------------------------------------------------------------------------------

MACHINES = 200
SPEED = 40.0
KILLS = 6
"""In each direction."""
AGENT = """
import sys
from datetime import datetime
from agent import cli, service
from agent.clock import simulated_clock
utc, monotonic_s, speed = sys.argv[1:4]
del sys.argv[1:4]
clock = simulated_clock(utc=datetime.fromisoformat(utc), monotonic_s=float(monotonic_s), speed=float(speed))
service.Clock = lambda: clock
cli.main()
"""
"""`hashcost run`, its clock the site's."""
CONFIG = """
scan.addresses = {targets}
poll.interval_s = 2
poll.deadline_s = 2
power.price_usd_per_kwh = {price}
[curtailment]
mode = "auto"
switching_cost_usd = 0
min_on_s = 0
min_off_s = 0
batch_machines = 50
ramp_kw_per_min = 100000
"""


class Host:
    """Where the agent runs: its files, and a simulated site in a process of its own."""

    def __init__(self, directory: Path, ready: dict[str, Any], control: SiteControl) -> None:
        self.control = control
        self.database = directory / "hashcost.db"
        self._directory = directory
        self._ready = ready

    def configure(self, price_usd_per_kwh: float) -> None:
        """Write the configuration."""
        text = CONFIG.format(targets=json.dumps(self._ready["scan_targets"]), price=price_usd_per_kwh)
        (self._directory / "config.toml").write_text(text)

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[Process]:
        """The agent's process, killed at the end of the block."""
        ready = self._ready
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", AGENT, ready["sim_utc"], str(ready["monotonic"]), str(ready["speed"]), "run",
            "--config", str(self._directory / "config.toml"), "--database", str(self.database),
            "--socket", str(self._directory / "agent.sock"),
            stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            _, rest = await process.communicate()
        assert b"Traceback" not in rest, rest.decode()
        assert process.returncode == -9, rest.decode()

    async def orders(self) -> list[Order]:
        return await asyncio.to_thread(orders_in, self.database)

    async def standing(self) -> int:
        """Machines that sleep on an order; -1 while any order is open."""
        orders = await self.orders()
        machines = Counter(order.machine_id for order in orders if order.is_open)
        assert machines.total() == len(machines), "two open orders for one machine"
        return -1 if machines else sum(order.is_standing for order in orders)


@pytest.fixture
async def host(tmp_path) -> AsyncIterator[Host]:
    socket = tmp_path / "control.sock"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drivers.simulator", "--machines", str(MACHINES), "--speed", str(SPEED),
        "--network", "127.94.0.0/16", "--control", str(socket),
        stdin=PIPE, stdout=PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        ready = json.loads(await process.stdout.readline())
        async with SiteControl(socket) as control:
            yield Host(tmp_path, ready, control)
    finally:
        process.kill()
        await process.communicate()


async def kill_amid(host: Host, chance: random.Random) -> None:
    """Start the agent and kill it after some steps of orders, or a while after it has none to take."""
    async with host.agent() as process:
        left = chance.randrange(10, 130)
        with contextlib.suppress(TimeoutError):
            while left > 0:
                async with asyncio.timeout(4):
                    line = await process.stderr.readline()
                assert line, "the agent ended by itself"
                assert b"Traceback" not in line, (await process.stderr.read(8000)).decode()
                left -= b"event=order" in line
            await asyncio.sleep(chance.uniform(0.0, 0.05))


async def run_until(host: Host, done: Callable[[], Awaitable[bool]]) -> None:
    """Start the agent and let it work until a condition holds."""
    async with host.agent() as process:
        drained = asyncio.create_task(_drain(process))
        try:
            for _ in range(400):
                if await done():
                    return
                assert not drained.done(), "the agent ended by itself"
                await asyncio.sleep(0.5)
        finally:
            drained.cancel()
    orders = await host.orders()
    states = Counter((order.action, order.state, order.failure) for order in orders)
    failed = [order for order in orders if order.state is OrderState.FAILED]
    raise AssertionError(f"it does not come to an end: {states}, {failed[:3]}")


async def _drain(process: Process) -> None:
    while line := await process.stderr.readline():
        assert b"Traceback" not in line, (await process.stderr.read(8000)).decode()


@pytest.mark.timeout(900)
async def test_kill_9_amid_a_curtailment_of_200_machines(host):
    chance = random.Random(9)
    before = {truth.mac: truth for truth in await host.control.all_truth()}
    for price, standing in ((DEAR, MACHINES), (CHEAP, 0)):
        host.configure(price)
        for _ in range(KILLS):
            await kill_amid(host, chance)

        state = RunState.ASLEEP if standing else RunState.MINING

        async def done(standing: int = standing, state: RunState = state) -> bool:
            """By the orders, and by the books: a reading may call a machine mining that still ramps a little."""
            if await host.standing() != standing:
                return False
            return {truth.run_state for truth in await host.control.all_truth()} == {state}

        await run_until(host, done)
        truths = await host.control.all_truth()
        assert {truth.run_state for truth in truths} == {state}
    for truth in truths:
        assert repeated(truth) == []
        assert writes(truth)[:1] + writes(truth)[-1:] == ["sleep", "wake"]
        assert len(writes(truth)) <= 4
        assert (truth.power_mode, truth.pools) == (before[truth.mac].power_mode, before[truth.mac].pools)
    assert sum(len(writes(truth)) for truth in truths) <= 2 * MACHINES + KILLS
    await asyncio.to_thread(check_orders, host.database, machines=MACHINES)


def repeated(truth: MachineTruth) -> list[tuple[CommandRecord, CommandRecord]]:
    """Pairs of the same command of which the first was carried out and the second came before it could show."""
    sent = [command for command in truth.commands if command.writes]
    words = writes(truth)
    assert len(words) == len(sent), "the site's operator commanded it"
    return [
        (first, second)
        for (first, word), (second, next_word) in pairwise(zip(sent, words, strict=True))
        if word == next_word
        and first.outcome == "done"
        and second.at - first.at < timedelta(seconds=FAMILY_TIME_S[word, truth.family])
    ]

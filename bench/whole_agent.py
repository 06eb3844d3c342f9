"""The whole agent against a site of full size: what it costs between commands, and how fast a site is curtailed."""

import asyncio
import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

from agent.config import Config, CurtailmentSection, PollSection, ScanSection
from agent.curtailment import Mode, Rule
from agent.orders import Order, OrderAction
from agent.reconciler import COMMANDS_AT_ONCE
from agent.rehearsal import MovablePrice
from agent.service import Agent
from bench.figures import OURS, Figure, figures, show
from bench.host import BenchSite, Rivals

INTERVAL_S = 30.0
FREE, DEAR = 0.0, 10.0
"""USD per kWh: nobody sleeps, everybody sleeps."""
CONFIRM_LIMIT_S = 240.0
CURTAIL_SPEED = 6.0
"""The machines' time runs so much faster, and with it the times within which they have to obey."""


def config(there: BenchSite, *, ramp_off: bool = False) -> Config:
    """The default configuration, with the interval of the target."""
    limits = {"batch_machines": 10_000, "ramp_kw_per_min": 1e9} if ramp_off else {}
    auto = {"mode": Mode.AUTO, "rule": Rule.DEAD_BAND, "min_on_s": 0.0} if ramp_off else {}
    return Config(
        scan=ScanSection(addresses=there.targets),
        poll=PollSection(interval_s=INTERVAL_S),
        curtailment=CurtailmentSection.model_validate(auto | limits),
    )


def memory_mb() -> float:
    """What this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def idle(there: BenchSite, folder: Path, rounds: int) -> list[Figure]:
    """CPU of rounds in the steady state as a share of one core, and memory, which must not grow."""
    logging.getLogger("hashcost").setLevel(logging.ERROR)
    price = MovablePrice(0.06)
    costs, memory = [], []
    gc.collect()
    async with Agent(config(there), folder / "idle.db", clock=there.clock, power=price) as agent:
        cpu = process_time()
        await agent.scan()
        scan_s, cpu = process_time() - cpu, process_time()
        await agent.poll_once()
        first_s = process_time() - cpu
        for _ in range(rounds + 1):
            cpu = process_time()
            await agent.poll_once()
            costs.append(process_time() - cpu)
            memory.append(memory_mb())
    machines = len(there.found)
    steady = [{"core": 100 * each / INTERVAL_S} for each in costs[1:]]
    slow_share = 100 * (first_s - costs[-1]) / 600.0
    found = [
        *figures(
            f"agent, {machines} machines, 30 s rounds", "% of a core", "core", {OURS: steady}, {OURS: 40.0}
        ),
        Figure(name="  and what is read every 600 s", unit="% of a core", ours=max(0.0, slow_share)),
        Figure(name="  and the hourly scan", unit="% of a core", ours=100 * scan_s / 3600.0),
        Figure(name=f"memory, {machines} machines", unit="MB", ours=memory[-1], target=300.0),
        Figure(name=f"  growth in {rounds} rounds", unit="MB", ours=memory[-1] - memory[0]),
    ]
    show(found)
    return found


async def curtail(there: BenchSite, rivals: Rivals, folder: Path) -> list[Figure]:
    """From the decision until the last command was sent, and until the last machine is confirmed asleep."""
    logging.getLogger("hashcost").setLevel(logging.ERROR)
    price = MovablePrice(FREE)
    settings = config(there, ramp_off=True)
    async with Agent(settings, folder / "curtail.db", clock=there.clock, power=price) as agent:
        await agent.scan()
        for _ in range(2):
            await agent.poll_once()
        price.price_usd_per_kwh = DEAR
        decided, cpu = perf_counter(), process_time()
        await agent.poll_once()
        ordered_s = perf_counter() - decided
        await _while(lambda: any(order.dispatched_at is None for order in _sleeps(agent)))
        sent_s, cpu_s = perf_counter() - decided - ordered_s, process_time() - cpu
        while any(order.is_open for order in _sleeps(agent)) and perf_counter() - decided < CONFIRM_LIMIT_S:
            await agent.poll_once()
        confirmed_s = perf_counter() - decided
        confirmed = sum(order.confirmed_at is not None for order in _sleeps(agent))
    hosts = [address.host for address, _ in there.found]
    name = f"curtail {len(hosts)}"
    naive = "pyasic stop_mining loop"
    pyasic = await rivals.ask("stop", hosts=hosts, at_once=COMMANDS_AT_ONCE)
    found = [
        Figure(
            name=f"{name}: last command sent after", unit="s", ours=sent_s, rival=pyasic["wall_s"],
            rival_name=naive, ratio=pyasic["wall_s"] / sent_s,
        ),
        Figure(
            name=f"{name}: CPU from decision to command", unit="s", ours=cpu_s, rival=pyasic["cpu_s"],
            rival_name=naive, ratio=pyasic["cpu_s"] / cpu_s,
        ),
        Figure(name=f"{name}: round, decisions and orders", unit="s", ours=ordered_s),
        Figure(name=f"{name}: last one confirmed after", unit="s", ours=confirmed_s),
        Figure(name=f"{name}: not confirmed asleep", unit="machines", ours=float(len(hosts) - confirmed)),
    ]  # fmt: skip
    show(found)
    return found


def _sleeps(agent: Agent) -> list[Order]:
    return [order for order in agent.reconciler.all() if order.action is OrderAction.SLEEP]


async def _while(unfinished: Callable[[], bool]) -> None:
    end = perf_counter() + CONFIRM_LIMIT_S
    while unfinished() and perf_counter() < end:  # noqa: ASYNC110 - the agent tells nobody
        await asyncio.sleep(0.1)

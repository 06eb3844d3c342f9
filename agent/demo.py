"""`hashcost demo`: a simulated site in a process of its own, and the real agent against it over real sockets."""

import asyncio
import contextlib
import json
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from agent import event_loop
from agent.clock import Clock, simulated_clock
from agent.config import Config, CurtailmentSection, MarketSection, PollSection, ScanSection
from agent.curtailment import Mode
from agent.errors import AgentError
from agent.export import Cell, Period, profitability, to_csv, write_atomically
from agent.market.sources import KEYLESS
from agent.progress import scan_progress
from agent.reader import Reader
from agent.rehearsal import MovablePrice, as_lines, rehearse, teach_lies
from agent.service import Agent
from agent.simulated.prices import SimulatedPrices, TrueMarket
from agent.summary import as_data, draw
from agent.view import Picture
from drivers.simulator import namespace
from drivers.simulator.control import SiteControl

START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 10.0
ONCE_ROUNDS = 3
SHORTEST_INTERVAL_S = 2.0
INTERVAL_S_PER_MACHINE = 0.01
FAULT_SHARE = 0.2
FASTEST_LIVE = 60.0
RESTLESS = 0.02
"""How far the price of a bitcoin swings while one watches, as a fraction."""
PLAIN_WIDTH = 200


class DemoError(AgentError):
    """The simulated site did not start; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What was asked for on the command line. `speed` is simulated seconds per second."""

    machines: int
    seed: int
    speed: float
    faults: bool
    auto: bool
    once: bool
    csv: Path | None
    as_json: bool
    network: str = "127.77.0.0/16"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSite:
    """A running simulator: where to scan, its clock, and what it had to leave out."""

    scan_targets: Sequence[str]
    clock: Clock
    left_out: Sequence[str]
    control: Path


Watch = Callable[[Path, Path, Clock], Awaitable[None]]
"""Somebody who watches: given the database, the agent's socket and the site's clock, until they have seen enough."""


def run(options: DemoOptions, watch: Watch | None = None) -> None:
    """Run the demo to its end, or until whoever watches leaves, Ctrl-C, SIGTERM or the end of the terminal. Raises
    `DemoError`."""
    obstacle = namespace.enter()
    with (
        event_loop.heeding() as heeded,
        tempfile.TemporaryDirectory(prefix="hashcost-demo-") as directory,
    ):
        demo = _demo(options, Path(directory), [obstacle] if obstacle else [], watch)
        event_loop.run(event_loop.until_told(demo, heeded))


async def _demo(
    options: DemoOptions, directory: Path, obstacles: list[str], watch: Watch | None = None
) -> None:
    database, socket = directory / "hashcost.db", directory / "agent.sock"
    async with simulated_site(options, directory / "control.sock") as site, AsyncExitStack() as stack:
        notes = [*obstacles, *site.left_out]
        prices = await stack.enter_async_context(simulated_prices(options, site))
        config = demo_config(options, site, prices)
        price = MovablePrice(config.power.price_usd_per_kwh)
        async with Agent(config, database, clock=site.clock, power=price, socket=socket) as agent:
            # once there is a database: somebody may have enough before that
            stack.callback(lambda: _write_csv(options, database, site.clock.now()))
            with scan_progress(hidden=options.as_json) as progress:
                changes = await agent.scan(progress)
            notes += [f"{event.kind}: {event.detail}" for event in changes.doubts]
            if options.auto and options.once:
                await _rehearse(agent, options, site, price, database)
            elif options.once:
                _printer(options, notes)(await _rounds(agent, ONCE_ROUNDS))
            elif watch is None:
                await agent.poll_forever(_printer(options, notes))
            else:
                await agent.poll_once()  # there is something to see
                await _watched(agent, watch(database, socket, site.clock))


@asynccontextmanager
async def simulated_prices(options: DemoOptions, site: SimulatedSite) -> AsyncIterator[dict[str, str]]:
    """Simulated sources of hashprice, by name and address. The market moves while one watches; with `--once` it stands
    still, so that the same seed tells the same. None where the site's time runs too fast to ask anybody every minute of
    it: the prices are fixed ones then."""
    if options.speed > FASTEST_LIVE:
        yield {}
        return
    market = TrueMarket(
        began_at=site.clock.now(), seed=options.seed, restless=0.0 if options.once else RESTLESS
    )
    prices = SimulatedPrices(market, site.clock.now)
    async with prices.server:
        yield {name: url for name, url in prices.urls().items() if name in KEYLESS}


def demo_config(options: DemoOptions, site: SimulatedSite, prices: Mapping[str, str]) -> Config:
    """The default configuration, pointed at the simulated site and sources; big sites are polled less often."""
    sources = {name: {"url": url} for name, url in prices.items()}
    interval_s = max(SHORTEST_INTERVAL_S, options.machines * INTERVAL_S_PER_MACHINE)
    return Config(
        scan=ScanSection(addresses=list(site.scan_targets)),
        market=MarketSection.model_validate({"source": "live", "sources": sources} if sources else {}),
        poll=PollSection(interval_s=interval_s, deadline_s=min(interval_s, 10.0)),
        curtailment=CurtailmentSection(mode=Mode.AUTO if options.auto else Mode.RECOMMEND),
    )


async def _rehearse(
    agent: Agent, options: DemoOptions, site: SimulatedSite, price: MovablePrice, database: Path
) -> None:
    async with SiteControl(site.control) as control:
        if options.faults:
            await teach_lies(control, options.seed)
        picture, rehearsal = await rehearse(agent, price, control)
    rows = await asyncio.to_thread(_profitability, database, site.clock.now())
    avoided = sum(float(row["avoided_loss_usd"] or 0.0) for row in rows)
    rehearsal = replace(rehearsal, avoided_loss_usd=avoided)
    if options.as_json:
        _print_json(asdict(rehearsal))
        return
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(draw(picture, width=console.width), *as_lines(rehearsal), sep="\n")


async def _rounds(agent: Agent, count: int) -> Picture:
    """Poll `count` rounds and give the last picture: energy needs time between two readings."""
    for _ in range(count - 1):
        await agent.poll_once()
        await asyncio.sleep(agent.config.poll.interval_s)
    return await agent.poll_once()


async def _watched(agent: Agent, watching: Awaitable[None]) -> None:
    """Run the agent for as long as somebody watches."""
    running = asyncio.create_task(agent.run())
    try:
        await watching
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def _printer(options: DemoOptions, notes: Sequence[str]) -> Callable[[Picture], None]:
    if options.as_json:
        return lambda picture: _print_json(as_data(picture, notes=notes))
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    return lambda picture: console.print(draw(picture, notes=notes, width=console.width))


def _print_json(data: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


def _write_csv(options: DemoOptions, database: Path, until: datetime) -> None:
    if options.csv is not None:
        write_atomically(options.csv, to_csv(_profitability(database, until)))


def _profitability(database: Path, until: datetime) -> list[Mapping[str, Cell]]:
    """One row per machine, from the first reading on."""
    with Reader(database) as reader:
        span = reader.readings_span()
        return [] if span is None else list(profitability(reader, span[0], until, Period.MACHINE))


@asynccontextmanager
async def simulated_site(options: DemoOptions, control: Path) -> AsyncIterator[SimulatedSite]:
    """Start the simulator, wait until it listens, and end it with this process: it reads a pipe from us."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "drivers.simulator",
        "--machines", str(options.machines), "--seed", str(options.seed), "--speed", str(options.speed),
        "--fault-share", str(FAULT_SHARE if options.faults else 0.0), "--control", str(control),
        "--network", options.network,
        stdin=PIPE, stdout=PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield await _ready(process, control)
    finally:
        await _stop(process)


async def _ready(process: Process, control: Path) -> SimulatedSite:
    assert process.stdout is not None  # noqa: S101 - asked for a pipe
    try:
        async with asyncio.timeout(START_DEADLINE_S):
            line = await process.stdout.readline()
    except TimeoutError as error:
        raise DemoError(f"the simulated site did not start within {START_DEADLINE_S:.0f} s") from error
    if not line:
        raise DemoError("the simulated site did not start; its own message is above")
    ready = json.loads(line)
    return SimulatedSite(
        scan_targets=ready["scan_targets"],
        clock=simulated_clock(
            utc=datetime.fromisoformat(ready["sim_utc"]),
            monotonic_s=ready["monotonic"],
            speed=ready["speed"],
        ),
        left_out=ready["left_out"],
        control=control,
    )


async def _stop(process: Process) -> None:
    assert process.stdin is not None  # noqa: S101 - asked for a pipe
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP_DEADLINE_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):  # it ended this moment
            process.kill()
        await process.wait()

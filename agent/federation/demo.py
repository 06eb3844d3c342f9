"""`hashcost fleet demo`: three simulated sites with an agent each, a cluster of NATS servers, and the fleet of them."""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from rich.console import Console

from agent import event_loop
from agent.demo import DemoError, DemoOptions, SimulatedSite, simulated_site
from agent.federation.collector import Collector, stream_of
from agent.federation.connection import Servers
from agent.federation.fleet_database import FleetDatabase
from agent.federation.overview import PLAIN_WIDTH, SiteView, draw_fleet, site_views
from agent.simulated.nats import Cluster
from agent.supervision import supervise
from drivers.simulator import namespace

ORG = "demo"
PRICES_USD_PER_KWH: Mapping[str, float] = {"denver": 0.045, "tulsa": 0.06, "ulvik": 0.075}
"""The sites, and what power costs at each."""
SHOW_EVERY_S = 1.0
FIRST_PICTURE_S = 180.0
INTERVAL_S_PER_MACHINE, SHORTEST_INTERVAL_S = 0.05, 10.0
STOP_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetDemoOptions:
    """What was asked for: machines at each site, and whether to end with the first whole picture."""

    machines: int
    once: bool


def run(options: FleetDemoOptions) -> None:
    """Run to the first picture, or until Ctrl-C or SIGTERM. Raises `DemoError` and `NoServerError`."""
    if (obstacle := namespace.enter()) is not None:
        raise DemoError(f"the simulated sites need it: {obstacle}")
    with (
        event_loop.heeding() as heeded,
        tempfile.TemporaryDirectory(prefix="hashcost-fleet-") as directory,
        Cluster(_made(Path(directory) / "nats")) as cluster,
    ):
        asyncio.run(event_loop.until_told(_demo(options, Path(directory), cluster), heeded))


async def _demo(options: FleetDemoOptions, directory: Path, cluster: Cluster) -> None:
    stream = stream_of(ORG, replicas=len(cluster.nodes), megabytes=200, days=2)
    fleet = FleetDatabase(directory / "fleet")
    collector = Collector(Servers(addresses=cluster.urls, name="fleet"), stream, fleet)
    async with AsyncExitStack() as stack:
        for number, site in enumerate(PRICES_USD_PER_KWH):
            home = _made(directory / site)
            wanted = DemoOptions(
                machines=options.machines, seed=7 + number, speed=1.0, faults=False, auto=False, once=False, csv=None,
                as_json=True, network=f"127.{81 + number}.0.0/16",
            )  # fmt: skip
            simulated = await stack.enter_async_context(simulated_site(wanted, home / "control.sock"))
            (home / "hashcost.toml").write_text(_configuration(site, simulated, cluster, options.machines))
            await stack.enter_async_context(_agent(home))
        stack.callback(fleet.close)
        collecting = asyncio.create_task(supervise("fleet", collector.run))
        try:
            await _show(options, directory / "fleet", fleet)
        finally:
            collecting.cancel()
            await asyncio.wait([collecting])


def _configuration(site: str, simulated: SimulatedSite, cluster: Cluster, machines: int) -> str:
    interval_s = max(SHORTEST_INTERVAL_S, machines * INTERVAL_S_PER_MACHINE)
    return (
        f"[scan]\naddresses = {_toml(simulated.scan_targets)}\n"
        f"[poll]\ninterval_s = {interval_s}\ndeadline_s = 10.0\n"
        f'[power]\nkind = "fixed"\nprice_usd_per_kwh = {PRICES_USD_PER_KWH[site]}\n'
        f'[fleet]\nservers = {_toml(cluster.urls)}\norg = "{ORG}"\nsite = "{site}"\n'
    )


def _toml(texts: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{text}"' for text in texts) + "]"


@asynccontextmanager
async def _agent(home: Path) -> AsyncIterator[None]:
    """A site's agent, in a process of its own."""
    with (home / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "agent", "run", "--config", str(home / "hashcost.toml"),
            "--database", str(home / "hashcost.db"), "--socket", str(home / "agent.sock"),
            stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _show(options: FleetDemoOptions, directory: Path, fleet: FleetDatabase) -> None:
    """The first whole picture, and then the terminal until it is closed, where there is one."""
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(draw_fleet(await _first_picture(directory, options.machines), fleet.state))
    if options.once:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        await asyncio.Event().wait()
    terminal = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "tui", str(directory), str(directory / "no.sock")
    )
    try:
        await terminal.wait()
    finally:
        if terminal.returncode is None:
            terminal.terminate()
            await terminal.wait()


async def _first_picture(directory: Path, machines: int) -> list[SiteView]:
    """Every site with every machine. Raises `DemoError` if it does not come about."""
    deadline = monotonic() + FIRST_PICTURE_S
    while monotonic() < deadline:
        if _is_whole(sites := await _sites(directory), machines):
            return sites
        await asyncio.sleep(SHOW_EVERY_S)
    raise DemoError(f"the sites were not all there within {FIRST_PICTURE_S:.0f} s")


async def _sites(directory: Path) -> list[SiteView]:
    return await asyncio.to_thread(site_views, directory, datetime.now(UTC))


def _is_whole(sites: Sequence[SiteView], machines: int) -> bool:
    known = [site for site in sites if site.is_current and site.stored is not None]
    return len(known) == len(PRICES_USD_PER_KWH) and all(
        len(site.stored.picture.views) == machines for site in known if site.stored is not None
    )


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory

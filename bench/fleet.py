"""`python -m bench.fleet`: what a fleet costs, as docs/fleet.md tells it. Needs `hashcost[fleet]` and a NATS server.

How many machines one core of the fleet service takes in, what telling costs a site's round, how many bytes a machine is
on the wire, and how long it takes over a cluster of three from a stored round to the fleet's database and its terminal.
"""

import asyncio
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from time import monotonic, process_time

from agent.config.postgres import PostgresSection
from agent.federation.collector import Collector, stream_of
from agent.federation.connection import Servers
from agent.federation.fleet_database import Arrived, FleetDatabase, settle
from agent.federation.messages import subject
from agent.federation.outbox import Outbox
from agent.federation.outlet import waiting
from agent.federation.uplink import Uplink
from agent.reader import Reader
from agent.simulated.nats import Cluster
from agent.store import Store, StoreError
from tests.agent import postgres
from tests.agent.builders import at, machine, market, reading, save
from tui.fleet_source import FleetSource
from tui.sites import SitesApp

SITES, MACHINES, ROUNDS, DELAYS = 3, 2_000, 6, 15
MUCH = 1024 * 1024 * 1024


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory:
        intake(Path(directory))
        asyncio.run(delay(Path(directory)))


def opened(path: Path, name: str) -> Store:
    """A site's store that tells."""
    return Store(path, partial(Outbox, site=name, threshold=0.02, limit_bytes=MUCH))


def intake(directory: Path) -> None:
    """Rounds of several sites in which every machine changed, taken in by one fleet database in this process."""
    messages: list[Arrived] = []
    silent_s, telling_s = [], []
    for number in range(SITES):
        name = f"site{number}"
        silent_s.append(site_rounds(Store(directory / f"{name}-silent.db")))
        telling_s.append(site_rounds(opened(directory / f"{name}-told.db", name)))
        messages += arrived(directory / f"{name}-told.db", name)
    taken_in(directory / "fleet", messages, "files")
    if postgres.programs() is None:
        tell(postgres.ABSENT)
    else:
        with postgres.server(fsync="on") as server:
            where = PostgresSection(url=server.database(), password_file=str(server.password_file))
            settle(directory / "kept", where)
            taken_in(directory / "kept", messages, "PostgreSQL on this host")
    told = SITES * MACHINES * ROUNDS
    size = sum(len(message.payload) for message in messages)
    tell(f"wire: {size / told:.0f} bytes for a machine that changed, {size / len(messages):,.0f} a message")
    more_s = (sum(telling_s) - sum(silent_s)) / (SITES * ROUNDS)
    tell(
        f"site: telling adds {1e3 * more_s:.0f} ms of CPU to a round in which all of {MACHINES} machines changed"
    )


def taken_in(directory: Path, messages: Sequence[Arrived], what: str) -> None:
    """Have a fleet database take all of them, as the service does."""
    fleet = FleetDatabase(directory)
    began_s, began_cpu_s = monotonic(), process_time()
    for start in range(0, len(messages), 200):
        fleet.take(messages[start : start + 200])
    took_s, took_cpu_s = monotonic() - began_s, process_time() - began_cpu_s
    fleet.close()
    told = SITES * MACHINES * ROUNDS
    tell(
        f"fleet service, {what}: {told / took_cpu_s:,.0f} machines/s and {len(messages) / took_cpu_s:,.0f} messages/s "
        f"of one core; {told / took_s:,.0f} machines/s by the clock"
    )


def site_rounds(store: Store) -> float:
    """CPU seconds of the rounds of a site whose machines all change."""
    fleet = [machine(number, reading()) for number in range(1, MACHINES + 1)]
    noise = random.Random(7)
    began_s = process_time()
    for turn in range(ROUNDS):
        now = datetime(2026, 2, 1, tzinfo=UTC) + timedelta(seconds=30 * turn)
        for each in fleet:
            hashrate_ths, power_w = noise.uniform(90, 210), noise.uniform(2900, 3700)
            each.apply(reading(began_at=now, hashrate_ths=hashrate_ths, power_w=power_w))
        save(store, *fleet, market=market(at=now))
    took_s = process_time() - began_s
    store.close()
    return took_s


def arrived(path: Path, name: str) -> Sequence[Arrived]:
    """What waits in an outbox, as it would arrive."""
    found = waiting(path, 1_000_000)
    return [
        Arrived(
            stream_sequence=number,
            subject=subject("bench", name, each.kind),
            place=each.place,
            payload=each.payload,
        )
        for number, each in enumerate(found, 1)
    ]


async def delay(directory: Path) -> None:
    """From the moment that a round of 200 machines is stored on site until the fleet's database has it, and its
    terminal shows it."""
    (directory / "nats").mkdir()
    with Cluster(directory / "nats") as cluster, opened(directory / "site.db", "site") as store:
        fleet = FleetDatabase(directory / "cluster-fleet")
        stream = stream_of("bench", replicas=3, megabytes=100, days=2)
        collector = Collector(Servers(addresses=cluster.urls, name="fleet"), stream, fleet)

        async def take(epoch: str, sequence: int) -> None:
            store.take_out(epoch, sequence)

        servers = Servers(addresses=cluster.urls, name="site")
        uplink = Uplink(servers, directory / "site.db", take, org="bench", site="site")
        tasks = [asyncio.create_task(collector.run()), asyncio.create_task(uplink.run())]
        took_s, shown_s = [], []
        app = SitesApp(FleetSource(directory / "cluster-fleet"))
        terminal = asyncio.create_task(app.run_async(headless=True, size=(120, 40)))
        machines = [machine(number, reading()) for number in range(1, 201)]
        for turn in range(DELAYS + 1):
            now = datetime(2026, 2, 1, tzinfo=UTC) + timedelta(seconds=30 * turn)
            save(store, *at(now, machines), market=market(0.05 + turn * 1e-3, at=now))
            began_s = monotonic()
            while shown(directory / "cluster-fleet" / "site.db") != now:  # noqa: ASYNC110 - another's database
                await asyncio.sleep(0.02)
            took_s.append(monotonic() - began_s)
            while not seen(app, now):  # noqa: ASYNC110 - the terminal tells nobody
                await asyncio.sleep(0.02)
            shown_s.append(monotonic() - began_s)
            await asyncio.sleep(random.uniform(0.5, 1.5))
        app.exit()
        await terminal
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        fleet.close()
    for what, found in (("database", took_s), ("terminal", shown_s)):
        each_s = sorted(found[1:])  # the first waits for the cluster to begin
        middle_s = statistics.median(each_s)
        tell(f"delay to the {what}: {middle_s:.2f} s in the middle, {each_s[-1]:.2f} s at most of {DELAYS}")


def seen(app: SitesApp, at: datetime) -> bool:
    """Whether the terminal has drawn the round of then."""
    sites = [] if app.state is None else app.state.sites
    return any(site.stored is not None and site.stored.picture.market.at == at for site in sites)


def shown(copy: Path) -> datetime | None:
    """The last round that a copy has."""
    if not copy.exists():
        return None
    try:
        with Reader(copy) as reader:
            return reader.last_round_at()
    except StoreError:  # not finished yet
        return None


def tell(line: str) -> None:
    """Print a figure at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

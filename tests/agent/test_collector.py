"""From sites to the fleet over real servers: whatever fails on the way, the copies end up as the sites are."""

import asyncio
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial

import nats
import pytest

from agent.config import parse
from agent.export import Period, export_profitability
from agent.federation.books import export_fleet
from agent.federation.collector import Collector, stream_of
from agent.federation.connection import Servers, connected
from agent.federation.fleet_database import FleetDatabase, read_state
from agent.federation.outlet import waiting
from agent.federation.uplink import Uplink
from agent.reader import Reader
from agent.rows import Event
from agent.simulated.nats import Cluster, free_port, server_program
from agent.store import StoreError
from tests.agent.builders import NOW, at, eventually, machine, market, reading, save
from tests.agent.processes import CLI, child_environment
from tests.agent.test_fleet import Site, book, busy_day, everything, hours_of_readings, table

pytestmark = [
    pytest.mark.usefixtures("impatient"),
    # nats-py leaves sockets of servers that went away to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(server_program() is None, reason="needs nats-server"),
    pytest.mark.timeout(240),
]


@pytest.fixture(params=[3, 1], ids=["cluster", "single"])
def cluster(request, tmp_path):
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats", nodes=request.param) as running:
        yield running


@pytest.fixture
def sites(tmp_path):
    made = [Site(tmp_path / "sites", name) for name in ("denver", "tulsa")]
    yield made
    for each in made:
        each.stop()


@asynccontextmanager
async def running(*loops):
    tasks = [asyncio.create_task(loop()) for loop in loops]
    try:
        yield
        assert not [task for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def uplink(cluster, site):
    async def take(epoch, sequence):
        site.store.take_out(epoch, sequence)

    servers = Servers(addresses=cluster.urls, name=site.name)
    return Uplink(servers, site.path, take, org="acme", site=site.name).run


def is_same(copy, site):
    with suppress(StoreError):  # not there, or not finished
        return everything(copy) == everything(site.path)
    return False


class Fleet:
    """The collector with its database."""

    def __init__(self, cluster, directory):
        self.directory = directory
        replicas = len(cluster.nodes)
        stream = stream_of("acme", replicas=replicas, megabytes=100, days=30)
        self.database = FleetDatabase(directory)
        self.run = Collector(Servers(addresses=cluster.urls, name="fleet"), stream, self.database).run

    def has(self, *sites):
        return all(self._has(site) for site in sites)

    def _has(self, site):
        return not waiting(site.path, 1) and is_same(self.directory / f"{site.name}.db", site)


@asynccontextmanager
async def collecting(cluster, directory):
    fleet = Fleet(cluster, directory)
    try:
        async with running(fleet.run):
            yield fleet
    finally:
        fleet.database.close()


async def test_what_sites_tell_is_what_the_fleet_shows(cluster, sites, tmp_path):
    for number, each in enumerate(sites):
        busy_day(each, seed=number)
    async with (
        collecting(cluster, tmp_path / "fleet") as fleet,
        running(*(uplink(cluster, each) for each in sites)),
    ):
        await eventually(lambda: fleet.has(*sites), 60.0)
        for each in sites:
            each.store.save_events([Event(at=NOW, kind="noted", detail="later")])
        await eventually(lambda: fleet.has(*sites), 30.0)
    assert read_state(tmp_path / "fleet").refused == {}


async def test_the_service_goes_on_where_it_was_and_can_begin_anew(cluster, sites, tmp_path):
    async with running(*(uplink(cluster, each) for each in sites)):
        async with collecting(cluster, tmp_path / "fleet") as fleet:
            busy_day(sites[0], rounds=4)
            await eventually(lambda: fleet.has(sites[0]), 60.0)
        busy_day(sites[1], rounds=4)
        async with collecting(cluster, tmp_path / "fleet") as fleet:
            await eventually(lambda: fleet.has(*sites), 60.0)
            taken = fleet.database.state.taken
        shutil.rmtree(tmp_path / "fleet")
        async with collecting(cluster, tmp_path / "fleet") as fleet:
            await eventually(lambda: fleet.has(*sites), 60.0)
            assert fleet.database.state.taken == taken


async def test_nodes_may_go_one_after_the_other(tmp_path, sites):
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats") as cluster:
        async with (
            collecting(cluster, tmp_path / "fleet") as fleet,
            running(*(uplink(cluster, each) for each in sites)),
        ):
            busy_day(sites[0], rounds=2)
            await eventually(lambda: fleet.has(sites[0]), 60.0)
            for node in cluster.nodes:
                cluster.kill(node)
                busy_day(sites[1], seed=node, rounds=3)
                await eventually(lambda: fleet.has(*sites), 90.0)  # two of three are enough
                cluster.start(node)
                cluster.wait_for(node)
                await eventually(lambda: fleet.has(*sites), 90.0)
    state = read_state(tmp_path / "fleet")
    assert (state.refused, state.holes) == ({}, 0)


class Way:
    """From one site to every node: a port of its own for each, and a cut that takes all that was open with it."""

    def __init__(self, cluster):
        self.ports = {free_port(): int(url.rpartition(":")[2]) for url in cluster.urls}
        self.urls = tuple(f"nats://127.0.0.1:{port}" for port in self.ports)
        self.nodes = cluster.nodes
        self.servers, self.ends = [], set()

    async def mend(self):
        for port, node in self.ports.items():
            self.servers.append(await asyncio.start_server(partial(self.carry, node), "127.0.0.1", port))

    def cut(self):
        for server in self.servers:
            server.close()
        self.servers = []
        for end in self.ends:
            end.transport.abort()

    async def carry(self, node, reader, writer):
        with suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", node)
            self.ends |= {writer, back}
            async with asyncio.TaskGroup() as group:
                group.create_task(self.pump(reader, back))
                group.create_task(self.pump(there, writer))
            self.ends -= {writer, back}

    async def pump(self, source, sink):
        with suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()


@pytest.fixture
async def way(tmp_path):
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats") as cluster:
        made = Way(cluster)
        await made.mend()
        yield cluster, made
        made.cut()


async def test_a_site_that_is_cut_off_for_an_hour_makes_up_for_it_while_the_cluster_goes_on(
    way, sites, tmp_path
):
    """Time compressed: 120 rounds, as of an hour, while the way from one site to a cluster of three is cut. The other
    site goes on telling, and the stream has another leader when the first comes back."""
    cluster, its_way = way
    away, there = sites
    async with (
        collecting(cluster, tmp_path / "fleet") as fleet,
        running(uplink(its_way, away), uplink(cluster, there)),
    ):
        for each in sites:
            busy_day(each, rounds=2)
        await eventually(lambda: fleet.has(*sites), 60.0)
        its_way.cut()
        machines = [machine(number, reading()) for number in range(1, 4)]
        for turn in range(120):
            now = NOW + timedelta(hours=1, seconds=30 * turn)
            save(away.store, *at(now, machines), market=market(0.05 + turn * 1e-3, at=now))
            away.store.save_events([Event(at=now, kind="noted", detail=str(turn))])
        busy_day(there, seed=5, rounds=3)
        await eventually(lambda: fleet.has(there), 60.0)
        async with connected(Servers(addresses=cluster.urls, name="x")) as client:
            await client.request("$JS.API.STREAM.LEADER.STEPDOWN.HASHCOST-acme", b"", timeout=10)
        assert len(waiting(away.path, 1000)) >= 240
        await its_way.mend()
        await eventually(lambda: fleet.has(*sites), 90.0)
    state = read_state(tmp_path / "fleet")
    assert (state.refused, state.holes) == ({}, 0)
    with Reader(tmp_path / "fleet" / "denver.db") as reader:
        told = [event.detail for event in reader.events(limit=1000) if event.kind == "noted"]
    assert told[:120] == [str(turn) for turn in reversed(range(120))]


async def test_a_slow_service_is_waited_for_and_gets_everything(tmp_path, sites, monkeypatch):
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats") as cluster:
        take = FleetDatabase.take

        def slowly(self, messages):
            if messages:
                time.sleep(0.5)
            take(self, messages)

        monkeypatch.setattr(FleetDatabase, "take", slowly)
        monkeypatch.setattr("agent.federation.collector.BATCH", 20)
        busy_day(sites[0], rounds=30)
        async with collecting(cluster, tmp_path / "fleet") as fleet, running(uplink(cluster, sites[0])):
            await eventually(lambda: fleet.has(sites[0]), 120.0)


class Replayer:
    """Somebody on the way who sends again what was sent, in any order."""

    def __init__(self, client):
        self.client = client
        self.seen = []

    async def hear(self, message):
        if message.headers and "Hashcost-Again" not in message.headers:
            self.seen.append(message)

    async def run(self):
        await self.client.subscribe("hashcost.acme.*.*", cb=self.hear)
        chance = random.Random(4)
        while True:
            for each in chance.sample(self.seen, min(5, len(self.seen))):
                headers = {**each.headers, "Hashcost-Again": "yes"}
                await self.client.publish(each.subject, each.data, headers=headers)
            await asyncio.sleep(0.05)


async def test_the_fleets_ledger_is_the_sum_of_the_sites_whatever_happens_on_the_way(tmp_path):
    """Three sites, one with a clock that is late; the leader moves, a node dies, a site is cut off, and somebody sends
    everything again, which servers do not notice."""
    (tmp_path / "nats").mkdir()
    sites = [Site(tmp_path / "sites", name) for name in ("denver", "tulsa", "ulvik")]
    start = NOW.replace(minute=0)
    span = start - timedelta(hours=1), start + timedelta(hours=3)  # all of it booked: a copy has no readings
    with Cluster(tmp_path / "nats") as cluster:
        await asyncio.wait_for(made_stream(cluster), 60)
        async with (
            connected(Servers(addresses=cluster.urls, name="replayer")) as client,
            collecting(cluster, tmp_path / "fleet") as fleet,
            running(Replayer(client).run, uplink(cluster, sites[0]), uplink(cluster, sites[1])),
        ):
            hours_of_readings(sites[0], start, 4)
            await book(sites[0])
            await client.request("$JS.API.STREAM.LEADER.STEPDOWN.HASHCOST-acme", b"", timeout=10)
            cluster.kill(2)
            async with running(uplink(cluster, sites[2])):
                hours_of_readings(sites[1], start - timedelta(minutes=37), 5)
                await book(sites[1])
                hours_of_readings(sites[2], start, 4)
                await eventually(lambda: fleet.has(sites[0]), 90.0)
            await book(sites[2])  # while it is cut off
            cluster.start(2)
            cluster.wait_for(2)
            async with running(uplink(cluster, sites[2])):
                await eventually(lambda: fleet.has(*sites), 120.0)
                await eventually(lambda: fleet.database.state.doubles > 50, 60.0)
                expected = ledger_of_sites(sites, *span)
                await eventually(lambda: ledger_of_fleet(tmp_path / "fleet", *span) == expected, 60.0)
    for each in sites:
        each.stop()
    assert len({row["site"] for row in expected}) == 3
    assert sum(float(row["energy_kwh"] or 0) for row in expected) > 0
    state = read_state(tmp_path / "fleet")
    assert (state.refused, state.holes) == ({}, 0)


def ledger_of_sites(sites, start, end):
    """What each site says of itself."""
    return [
        {"site": each.name, **row}
        for each in sites
        for row in table(export_profitability(each.path, start, end, Period.HOUR, None))
    ]


def ledger_of_fleet(directory, start, end):
    """What the fleet says of all."""
    return table(export_fleet(directory, start, end, Period.HOUR, None))


async def made_stream(cluster):
    """The stream, with servers that forget at once which messages they have seen."""
    config = stream_of("acme", replicas=3, megabytes=100, days=30).evolve(duplicate_window=0.1)
    while True:
        with suppress(nats.errors.Error, nats.js.errors.Error):
            async with connected(Servers(addresses=cluster.urls, name="maker")) as client:
                await client.jetstream().add_stream(config)
                return
        await asyncio.sleep(0.2)


async def test_noise_and_forgeries_on_the_subjects_change_nothing(tmp_path, sites):
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats", nodes=1) as cluster:
        async with collecting(cluster, tmp_path / "fleet") as fleet, running(uplink(cluster, sites[0])):
            busy_day(sites[0], rounds=2)
            await eventually(lambda: fleet.has(sites[0]), 60.0)
            client = await nats.connect(list(cluster.urls))
            stream = client.jetstream()
            for number in range(50):
                await stream.publish(f"hashcost.acme.denver.{number}", b"x" * number)
                await stream.publish("hashcost.acme.tulsa.rounds", b"y", headers={"Hashcost-Epoch": "z"})
            await client.close()
            await eventually(lambda: sum(fleet.database.state.refused.values()) == 100, 30.0)
            sites[0].store.save_events([Event(at=NOW, kind="noted", detail="after")])
            await eventually(lambda: fleet.has(sites[0]), 30.0)
    assert not (tmp_path / "fleet" / "tulsa.db").exists()


def written(path):
    return path.read_bytes() if path.exists() else b""


async def page(port):
    """The metrics as a scraper gets them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    text = await reader.read()
    writer.close()
    return text


async def test_the_command_runs_until_it_is_told_to_stop(tmp_path, sites):
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats", nodes=1) as cluster:
        config = tmp_path / "fleet.toml"
        port = free_port()
        config.write_text(
            f'[fleet]\nservers = ["{cluster.urls[0]}"]\norg = "acme"\nstream_mb = 100\n'
            f'[metrics]\nlisten = "127.0.0.1:{port}"\ntextfile = "{tmp_path}/fleet.prom"\n'
        )
        assert parse(config.read_text(), source="x").fleet.site is None
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                CLI,
                "fleet",
                "run",
                "--config",
                str(config),
                "--fleet",
                str(tmp_path / "fleet"),
            ],
            env=child_environment(),
            stderr=subprocess.PIPE,
        )
        try:
            busy_day(sites[0], rounds=2)
            async with running(uplink(cluster, sites[0])):
                await eventually(lambda: is_same(tmp_path / "fleet" / "denver.db", sites[0]), 60.0)
            wanted = b'hashcost_site_up{site="denver"}'
            await eventually(lambda: wanted in written(tmp_path / "fleet.prom"), 60.0)
            async with asyncio.timeout(30):
                while wanted not in await page(port):
                    await asyncio.sleep(0.2)
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = await asyncio.to_thread(process.communicate, timeout=20)
    assert process.returncode == 0, said.decode()
    assert b"event=stopped" in said

"""From sites to the fleet over real servers: whatever fails on the way, the copies end up as the sites are."""

import asyncio
import random
import shutil
import signal
import subprocess
import sys
import threading
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
from tests.agent.test_fleet import book, busy_day, everything, hours_of_readings, table
from tests.agent.test_uplink import ANSWER_S, ELECTED_WITHIN_S

pytestmark = [
    pytest.mark.usefixtures("prompt"),
    # nats-py leaves sockets of servers that went away to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(server_program() is None, reason="needs nats-server"),
    pytest.mark.timeout(400),
]
impatient = pytest.mark.usefixtures("impatient")


@pytest.fixture(params=[3, 1], ids=["cluster", "single"])
def either(request, tmp_path):
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats", nodes=request.param) as servers:
        yield servers


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats") as servers:
        yield servers


@pytest.fixture
def single(tmp_path):
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats", nodes=1) as servers:
        yield servers


@pytest.fixture
def sites(start_site):
    return [start_site(name) for name in ("denver", "tulsa")]


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
        site.sent[epoch] = sequence

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

    def has_counted(self, *sites):
        """All that these ever sent, and it is written that it did."""
        return read_state(self.directory).taken == sum(sum(each.sent.values()) for each in sites)


@asynccontextmanager
async def collecting(cluster, directory):
    fleet = Fleet(cluster, directory)
    try:
        async with running(fleet.run):
            yield fleet
    finally:
        fleet.database.close()


async def test_what_sites_tell_is_what_the_fleet_shows(either, sites, tmp_path):
    cluster = either
    for number, each in enumerate(sites):
        busy_day(each, seed=number)
    async with (
        collecting(cluster, tmp_path / "fleet") as fleet,
        running(*(uplink(cluster, each) for each in sites)),
    ):
        await eventually(lambda: fleet.has(*sites))
        for each in sites:
            each.store.save_events([Event(at=NOW, kind="noted", detail="later")])
        await eventually(lambda: fleet.has(*sites))
    assert read_state(tmp_path / "fleet").refused == {}


async def test_the_service_goes_on_where_it_was_and_can_begin_anew(either, sites, tmp_path):
    async with running(*(uplink(either, each) for each in sites)):
        async with collecting(either, tmp_path / "fleet") as fleet:
            busy_day(sites[0], rounds=4)
            await eventually(lambda: fleet.has(sites[0]))
        busy_day(sites[1], rounds=4)
        for _ in ("goes on", "begins anew"):
            async with collecting(either, tmp_path / "fleet") as fleet:
                await eventually(lambda fleet=fleet: fleet.has(*sites) and fleet.has_counted(*sites))
            shutil.rmtree(tmp_path / "fleet")


async def test_what_is_being_written_when_the_service_ends_is_written_first(
    single, sites, tmp_path, monkeypatch
):
    take, begun, may_end, order = FleetDatabase.take, threading.Event(), threading.Event(), []

    def slowly(self, messages):
        begun.set()
        may_end.wait(60)
        take(self, messages)
        order.append("written")

    monkeypatch.setattr(FleetDatabase, "take", slowly)
    fleet = Fleet(single, tmp_path / "fleet")
    task = asyncio.create_task(fleet.run())
    task.add_done_callback(lambda _: order.append("ended"))
    await eventually(begun.is_set)
    task.cancel()
    asyncio.get_running_loop().call_later(0.3, may_end.set)
    await eventually(lambda: len(order) == 2)
    fleet.database.close()
    assert order == ["written", "ended"]


@impatient
async def test_nodes_may_go_one_after_the_other(cluster, sites, tmp_path):
    async with (
        collecting(cluster, tmp_path / "fleet") as fleet,
        running(*(uplink(cluster, each) for each in sites)),
    ):
        busy_day(sites[0], rounds=2)
        await eventually(lambda: fleet.has(sites[0]))
        for node in cluster.nodes:
            cluster.kill(node)
            busy_day(sites[1], seed=node, rounds=3)
            await eventually(lambda: fleet.has(*sites), ELECTED_WITHIN_S)  # two of three are enough
            cluster.start(node)
            cluster.wait_for(node)
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
async def way(cluster):
    made = Way(cluster)
    await made.mend()
    yield made
    made.cut()


async def step_down(client):
    """Another node leads the stream."""
    await client.request("$JS.API.STREAM.LEADER.STEPDOWN.HASHCOST-acme", b"", timeout=ANSWER_S)


@impatient
async def test_a_site_that_is_cut_off_for_an_hour_makes_up_for_it_while_the_cluster_goes_on(
    cluster, way, sites, tmp_path
):
    """Time compressed: 120 rounds, as of an hour, while the way from one site to a cluster of three is cut. The other
    site goes on telling, and the stream has another leader when the first comes back."""
    away, there = sites
    async with (
        collecting(cluster, tmp_path / "fleet") as fleet,
        running(uplink(way, away), uplink(cluster, there)),
    ):
        for each in sites:
            busy_day(each, rounds=2)
        await eventually(lambda: fleet.has(*sites))
        way.cut()
        machines = [machine(number, reading()) for number in range(1, 4)]
        for turn in range(120):
            now = NOW + timedelta(hours=1, seconds=30 * turn)
            save(away.store, *at(now, machines), market=market(0.05 + turn * 1e-3, at=now))
            away.store.save_events([Event(at=now, kind="noted", detail=str(turn))])
        busy_day(there, seed=5, rounds=3)
        await eventually(lambda: fleet.has(there))
        async with connected(Servers(addresses=cluster.urls, name="x")) as client:
            await step_down(client)
        assert len(waiting(away.path, 1000)) >= 240
        await way.mend()
        await eventually(lambda: fleet.has(*sites), ELECTED_WITHIN_S)
    state = read_state(tmp_path / "fleet")
    assert (state.refused, state.holes) == ({}, 0)
    with Reader(tmp_path / "fleet" / "denver.db") as reader:
        told = [event.detail for event in reader.events(limit=1000) if event.kind == "noted"]
    assert told[:120] == [str(turn) for turn in reversed(range(120))]


async def test_a_slow_service_is_waited_for_and_gets_everything(single, sites, tmp_path, monkeypatch):
    take = FleetDatabase.take

    def slowly(self, messages):
        if messages:
            time.sleep(0.2)
        take(self, messages)

    monkeypatch.setattr(FleetDatabase, "take", slowly)
    monkeypatch.setattr("agent.federation.collector.BATCH", 10)
    busy_day(sites[0], rounds=20)
    async with collecting(single, tmp_path / "fleet") as fleet, running(uplink(single, sites[0])):
        await eventually(lambda: fleet.has(sites[0]))


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


@impatient
async def test_the_fleets_ledger_is_the_sum_of_the_sites_whatever_happens_on_the_way(
    cluster, start_site, tmp_path
):
    """Three sites, one with a clock that is late; the leader moves, a node dies, a site is cut off, and somebody sends
    everything again, which servers do not notice."""
    sites = [start_site(name) for name in ("denver", "tulsa", "ulvik")]
    start = NOW.replace(minute=0)
    span = start - timedelta(hours=1), start + timedelta(hours=3)  # all of it booked: a copy has no readings
    await made_stream(cluster)
    async with (
        connected(Servers(addresses=cluster.urls, name="replayer")) as client,
        collecting(cluster, tmp_path / "fleet") as fleet,
        running(Replayer(client).run, uplink(cluster, sites[0]), uplink(cluster, sites[1])),
    ):
        hours_of_readings(sites[0], start, 4)
        await book(sites[0])
        await step_down(client)
        cluster.kill(2)
        async with running(uplink(cluster, sites[2])):
            hours_of_readings(sites[1], start - timedelta(minutes=37), 5)
            await book(sites[1])
            hours_of_readings(sites[2], start, 4)
            await eventually(lambda: fleet.has(sites[0]), ELECTED_WITHIN_S)
        await book(sites[2])  # while it is cut off
        cluster.start(2)
        cluster.wait_for(2)
        async with running(uplink(cluster, sites[2])):
            await eventually(lambda: fleet.has(*sites), ELECTED_WITHIN_S)
            await eventually(lambda: fleet.database.state.doubles > 50)
            expected = ledger_of_sites(sites, *span)
            await eventually(lambda: ledger_of_fleet(tmp_path / "fleet", *span) == expected)
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
    async with connected(Servers(addresses=cluster.urls, name="maker")) as client, asyncio.timeout(60):
        while True:
            with suppress(nats.js.errors.APIError, nats.errors.TimeoutError):
                return await client.jetstream(timeout=ANSWER_S).add_stream(config)
            await asyncio.sleep(0.05)


async def test_noise_and_forgeries_on_the_subjects_change_nothing(single, sites, tmp_path):
    async with collecting(single, tmp_path / "fleet") as fleet, running(uplink(single, sites[0])):
        busy_day(sites[0], rounds=2)
        await eventually(lambda: fleet.has(sites[0]))
        async with connected(Servers(addresses=single.urls, name="forger")) as client:
            stream = client.jetstream(timeout=ANSWER_S)
            for number in range(50):
                await stream.publish(f"hashcost.acme.denver.{number}", b"x" * number)
                await stream.publish("hashcost.acme.tulsa.rounds", b"y", headers={"Hashcost-Epoch": "z"})
        await eventually(lambda: sum(fleet.database.state.refused.values()) == 100)
        sites[0].store.save_events([Event(at=NOW, kind="noted", detail="after")])
        await eventually(lambda: fleet.has(sites[0]))
    assert not (tmp_path / "fleet" / "tulsa.db").exists()


def written(path):
    return path.read_bytes() if path.exists() else b""


async def page(port):
    """The metrics as a scraper gets them."""
    with suppress(OSError):  # it does not listen yet
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        text = await reader.read()
        writer.close()
        return text
    return b""


OFTEN = """
from agent.federation import metrics
metrics.RENDER_EVERY_S = 0.2
"""


async def test_the_command_runs_until_it_is_told_to_stop(single, sites, tmp_path):
    config = tmp_path / "fleet.toml"
    port = free_port()
    config.write_text(
        f'[fleet]\nservers = ["{single.urls[0]}"]\norg = "acme"\nstream_mb = 100\n'
        f'[metrics]\nlisten = "127.0.0.1:{port}"\ntextfile = "{tmp_path}/fleet.prom"\n'
    )
    assert parse(config.read_text(), source="x").fleet.site is None
    process = subprocess.Popen(
        [
            sys.executable, "-c", OFTEN + CLI,
            "fleet", "run", "--config", str(config), "--fleet", str(tmp_path / "fleet"),
        ],
        env=child_environment(),
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        busy_day(sites[0], rounds=2)
        async with running(uplink(single, sites[0])):
            await eventually(lambda: is_same(tmp_path / "fleet" / "denver.db", sites[0]))
        wanted = b'hashcost_site_up{site="denver"}'
        await eventually(lambda: wanted in written(tmp_path / "fleet.prom"))
        async with asyncio.timeout(60):
            while wanted not in await page(port):
                await asyncio.sleep(0.05)
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 0, said.decode()
    assert b"event=stopped" in said

"""The outbox's way to JetStream, on real servers: nothing lost, nothing doubled, in order, whatever fails."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import nats
import nkeys
import pytest

from agent.config import parse
from agent.federation.connection import Servers
from agent.federation.messages import COLUMNS, Kind, decode
from agent.federation.outbox import Outbox
from agent.federation.outlet import waiting
from agent.federation.uplink import Uplink
from agent.rows import Event
from agent.service import Agent
from agent.simulated.nats import Cluster, server_program
from agent.store import Store
from tests.agent.builders import MUCH, NOW, FakeDriver, eventually, machine, reading, running
from tests.agent.test_service import known

pytestmark = [
    pytest.mark.usefixtures("prompt"),
    # nats-py leaves sockets of servers that went away to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(server_program() is None, reason="needs nats-server"),
    pytest.mark.timeout(180),
]


impatient = pytest.mark.usefixtures("impatient")
ANSWER_S = 20.0
"""For a healthy server, on whatever host."""
ELECTED_WITHIN_S = 150.0
"""A cluster that lost a leader chooses another within ten seconds, and may have to try again."""


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
def path(tmp_path):
    return tmp_path / "hashcost.db"


@pytest.fixture
def store(path):
    with Store(path, partial(Outbox, site="denver", threshold=0.02, limit_bytes=MUCH)) as store:
        yield store


async def stream(cluster, nkeys_seed=None, **limits):
    """A stream for the organisation; the leader of a cluster needs a moment to know the others."""
    async with connection(cluster, nkeys_seed=nkeys_seed) as client, asyncio.timeout(ELECTED_WITHIN_S):
        while True:
            with suppress(nats.js.errors.APIError, nats.errors.TimeoutError):
                return await client.jetstream(timeout=ANSWER_S).add_stream(
                    name="FLEET", subjects=["hashcost.acme.*.*"], num_replicas=len(cluster.nodes), **limits
                )
            await asyncio.sleep(0.05)


@asynccontextmanager
async def connection(cluster, **options):
    client = await nats.connect(list(cluster.urls), connect_timeout=ANSWER_S, **options)
    try:
        yield client
    finally:
        await client.close()


async def arrived(cluster):
    """Every message of the stream, as (headers, message). A cluster that lost a node needs a moment to answer."""
    async with asyncio.timeout(ELECTED_WITHIN_S):
        while True:
            with suppress(nats.js.errors.Error, nats.errors.Error):
                async with connection(cluster) as client:
                    return await read_stream(client)
            await asyncio.sleep(0.1)


async def read_stream(client):
    stream = client.jetstream(timeout=10.0)
    total = (await stream.stream_info("FLEET")).state.messages
    subscription = await stream.subscribe("hashcost.acme.*.*", ordered_consumer=True)
    found = []
    while len(found) < total:
        message = await subscription.next_msg(timeout=10.0)
        found.append((message.headers, decode(message.data, told_on=message.subject)))
    return found


@asynccontextmanager
async def sending(cluster, path, store):
    async def take(epoch, sequence):
        store.take_out(epoch, sequence)

    servers = Servers(addresses=cluster.urls, name="denver")
    async with running(Uplink(servers, path, take, org="acme", site="denver")):
        yield


def happen(store, first, last):
    for number in range(first, last):
        store.save_events([Event(at=NOW, kind="noted", detail=str(number))])


async def emptied(path):
    await eventually(lambda: not waiting(path, 1), ELECTED_WITHIN_S)


async def numbers(cluster):
    index = COLUMNS[Kind.EVENTS].index("detail")
    return [int(row[index]) for _, message in await arrived(cluster) for row in message.rows]


async def test_what_happens_arrives_in_order_and_leaves_the_outbox(single, path, store):
    await stream(single)
    happen(store, 0, 200)
    async with sending(single, path, store):
        await emptied(path)
        happen(store, 200, 210)
        await emptied(path)
    assert await numbers(single) == list(range(210))
    headers = [each for each, _ in await arrived(single)]
    chain = [(int(each["Nats-Msg-Id"].split(".")[1]), int(each["Hashcost-Previous"])) for each in headers]
    assert chain == [(number, number - 1) for number in range(1, 211)]


async def test_a_message_that_is_sent_twice_is_there_once(single, path, store):
    await stream(single)
    happen(store, 0, 5)
    forgetful = []

    async def forget(epoch, sequence):  # as if the agent died before it wrote that they were taken
        forgetful.append((epoch, sequence))

    servers = Servers(addresses=single.urls, name="denver")
    async with running(Uplink(servers, path, forget, org="acme", site="denver")):
        await eventually(lambda: len(forgetful) > 3)
    assert await numbers(single) == list(range(5))


@impatient
async def test_a_site_that_is_cut_off_keeps_everything_and_tells_once(
    single, path, store, lines, told_in_turns
):
    await stream(single)
    async with sending(single, path, store):
        happen(store, 0, 10)
        await emptied(path)
        before = len(lines("event=fleet_unreachable"))
        single.kill(0)
        happen(store, 10, 500)
        await eventually(lambda: len(lines("event=fleet_unreachable")) > before)
        assert len(waiting(path, 1000)) == 490
        single.start(0)
        single.wait_for(0)
        await emptied(path)
        await eventually(lambda: told_in_turns("fleet"))
    assert await numbers(single) == list(range(500))


async def leader_of(cluster):
    """The node that leads the stream."""
    async with connection(cluster) as client:
        info = await client.jetstream(timeout=ANSWER_S).stream_info("FLEET")
    return int(info.cluster.leader.removeprefix("node"))


@impatient
@pytest.mark.parametrize("what", ["killed", "paused"])
async def test_the_leader_may_go_while_messages_are_on_their_way(cluster, path, store, what):
    await stream(cluster)
    leader = await leader_of(cluster)
    async with sending(cluster, path, store):
        for first in range(0, 2000, 200):
            happen(store, first, first + 200)
            await asyncio.sleep(0.1)
            if first == 600:
                cluster.kill(leader) if what == "killed" else cluster.send(leader, signal.SIGSTOP)
        await emptied(path)
    if what == "killed":
        cluster.start(leader)
        cluster.wait_for(leader)
    else:
        cluster.send(leader, signal.SIGCONT)
    found = await numbers(cluster)
    assert sorted(found) == list(range(2000))


async def test_a_full_stream_takes_nothing_and_nothing_is_lost(cluster, path, store, lines, told_in_turns):
    await stream(cluster, max_msgs=50, discard="new")
    happen(store, 0, 80)
    async with sending(cluster, path, store):
        await eventually(lambda: lines("event=fleet_unreachable"))
        assert len(waiting(path, 1000)) >= 30
        async with connection(cluster) as client:
            await client.jetstream(timeout=ANSWER_S).update_stream(
                name="FLEET", subjects=["hashcost.acme.*.*"], max_msgs=1000, discard="new", num_replicas=3
            )
        await emptied(path)
        await eventually(lambda: told_in_turns("fleet"))
    assert sorted(await numbers(cluster)) == list(range(80))


async def test_the_agent_polls_on_while_nobody_can_be_told(path, tmp_path):
    known(path, machine(1))
    config = parse(
        '[fleet]\nservers = ["nats://127.66.0.9:4222"]\norg = "acme"\nsite = "denver"\n'
        "[poll]\ninterval_s = 1.0\ndeadline_s = 1.0\n",
        source="test",
    )

    class Quiet(Agent):
        def _driver(self, machine_id):
            return FakeDriver(reading())

        async def _scan_loop(self):
            await asyncio.Event().wait()

    def rounds():
        return [message.kind for message in waiting(path, 1000)].count(Kind.ROUNDS)

    async with Quiet(config, path) as agent, running(agent):
        await eventually(lambda: rounds() >= 3)


def key(tmp_path, name):
    """A new user key: its public half, and a file with its seed."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    file = tmp_path / f"{name}.nk"
    file.write_bytes(seed)
    return nkeys.from_seed(bytearray(seed)).public_key.decode(), str(file)


SITES = """
accounts {{
  acme {{
    jetstream: enabled
    users: [
      {{ nkey: {admin} }}
      {sites}
    ]
  }}
}}
"""
SITE = '{{ nkey: {key}, permissions: {{ publish: ["hashcost.acme.{site}.*"], subscribe: ["_INBOX_{site}.>"] }} }}'


class Guarded:
    """Servers with an administrator's key and one for the site of denver, which can be revoked."""

    def __init__(self, tmp_path, nodes):
        (tmp_path / "nats").mkdir()
        self.public, self.admin = key(tmp_path, "admin")
        self.denver, self.seed = key(tmp_path, "denver")
        self.cluster = Cluster(tmp_path / "nats", nodes=nodes, extra=self.rules(denver=True))

    def rules(self, *, denver):
        sites = SITE.format(key=self.denver, site="denver") if denver else ""
        return SITES.format(admin=self.public, sites=sites)

    def admit(self, *, denver):
        for node in self.cluster.nodes:
            self.cluster.configure(node, self.rules(denver=denver))

    def connection(self, seed, **options):
        return connection(self.cluster, nkeys_seed=seed, **options)

    @asynccontextmanager
    async def sending(self, path, store, site="denver"):
        async def take(epoch, sequence):
            store.take_out(epoch, sequence)

        servers = Servers(addresses=self.cluster.urls, name="denver", nkey_file=self.seed)
        async with running(Uplink(servers, path, take, org="acme", site=site)):
            yield


@asynccontextmanager
async def guarding(tmp_path, nodes):
    found = Guarded(tmp_path, nodes)
    with found.cluster:
        await stream(found.cluster, nkeys_seed=found.admin)
        yield found


@pytest.fixture
async def guarded(tmp_path):
    async with guarding(tmp_path, 1) as found:
        yield found


@pytest.fixture
async def guarded_cluster(tmp_path):
    async with guarding(tmp_path, 3) as found:
        yield found


async def stored(guarded):
    async with guarded.connection(guarded.admin) as client:
        return (await client.jetstream(timeout=ANSWER_S).stream_info("FLEET")).state.messages


async def test_a_site_needs_no_more_than_to_publish_on_its_own_subjects(guarded, path, store):
    happen(store, 0, 10)
    async with guarded.sending(path, store):
        await emptied(path)
    assert await stored(guarded) == 10


async def test_a_stolen_credential_can_neither_speak_for_another_site_nor_listen(guarded, path, store):
    refused = []

    async def on_error(error):
        refused.append(str(error))

    async with guarded.connection(guarded.seed, error_cb=on_error) as thief:
        await thief.publish("hashcost.acme.tulsa.orders", b"x")
        heard = await thief.subscribe("hashcost.acme.>")
        others = await thief.subscribe("_INBOX.>")
        await eventually(lambda: len(refused) >= 3)
        happen(store, 0, 3)
        async with guarded.sending(path, store):
            await emptied(path)
        assert await stored(guarded) == 3
        assert heard.pending_msgs == others.pending_msgs == 0


@impatient
async def test_a_revoked_credential_ends_the_telling_and_a_new_admission_takes_it_up(
    guarded_cluster, path, store, lines
):
    guarded = guarded_cluster
    async with guarded.sending(path, store):
        happen(store, 0, 5)
        await emptied(path)
        guarded.admit(denver=False)
        await eventually(
            lambda: all(
                "Reloaded server configuration" in guarded.cluster.log(node) for node in guarded.cluster.nodes
            )
        )
        happen(store, 5, 10)
        await eventually(lambda: lines("event=fleet_unreachable"))
        assert len(waiting(path, 100)) == 5
        guarded.admit(denver=True)
        await emptied(path)
    assert await stored(guarded) == 10
    seed = Path(guarded.seed).read_text()
    assert not any(seed in line for line in lines("event="))

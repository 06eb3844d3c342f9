"""Which part of a site has which of its machines, on a real server: two parts that know the same machines never command
one both."""

import asyncio
import re
from contextlib import asynccontextmanager, suppress

import pytest
from nats.js import JetStreamContext
from nats.js.errors import APIError

from agent.config import ConfigError, parse
from agent.curtailment import CurtailmentPolicy, Mode, Rule
from agent.federation import claims as module
from agent.federation.bucket import Bucket, claim_key
from agent.federation.claims import Claims
from agent.federation.connection import Servers, connected
from agent.membership import parts
from agent.partition import Partition
from agent.policy import Reason
from agent.simulated.nats import Cluster, server_program
from agent.tenure import NotOursError, Whole
from tests.agent.builders import FakeDriver, eventually, mac, machine, order, reading, running
from tests.agent.processes import ROOT
from tests.agent.test_service import site
from tests.agent.test_uplink import key

needs_server = pytest.mark.skipif(server_program() is None, reason="needs nats-server")
# nats-py leaves sockets of servers that went away to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ALL = frozenset(map(mac, (1, 2, 3)))


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """It is looked often, and whatever is asked of a server may take its time."""
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr("agent.federation.bucket.ANSWER_WITHIN_S", 20.0)


@pytest.fixture
def database(tmp_path):
    return tmp_path / "hashcost.db"


@pytest.fixture
def server(tmp_path):
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats", nodes=1) as servers:
        yield servers


def part(server, name, **login):
    servers = Servers(addresses=server.urls, name=name, **login)
    return Claims(servers, org="acme", whole="denver", part=name, replicas=len(server.nodes))


@asynccontextmanager
async def bucket_of(server):
    async with connected(Servers(addresses=server.urls, name="x")) as client:
        yield await Bucket.open(client, org="acme", site="denver", replicas=len(server.nodes))


async def made(server):
    """The bucket; the leader of a cluster needs a moment to know the others."""
    async with asyncio.timeout(60):
        while True:
            with suppress(APIError):
                async with bucket_of(server):
                    return
            await asyncio.sleep(0.05)


def against(claims):
    return [claims.stands_against(mac(number)) for number in (1, 2, 3)]


async def all_known(*claims):
    await eventually(lambda: Reason.UNCLAIMED not in [why for each in claims for why in against(each)])


def sleep_of(number):
    return order(machine_id=mac(number))


async def sends(claims, number):
    async with claims.sending(sleep_of(number)):
        return True


@needs_server
async def test_parts_that_want_the_same_machines_have_each_of_them_once(server):
    north, south = part(server, "north"), part(server, "south")
    for each in (north, south):
        each.want(ALL, frozenset())
        assert against(each) == [Reason.UNCLAIMED] * 3
    async with running(north, south):
        await all_known(north, south)
        for number, pair in enumerate(zip(against(north), against(south), strict=True), 1):
            assert set(pair) == {None, Reason.OTHER_PART}
            owner, other = (north, south) if pair[0] is None else (south, north)
            assert await sends(owner, number)
            with pytest.raises(NotOursError):
                await sends(other, number)


@needs_server
async def test_a_claim_stays_while_its_part_is_away_and_is_there_when_it_comes_back(server):
    north, south = part(server, "north"), part(server, "south")
    north.want(ALL, frozenset())
    async with running(north):
        await all_known(north)
    with pytest.raises(NotOursError, match="confirmed"):
        await sends(north, 1)
    south.want(ALL, frozenset())
    async with running(south):
        await all_known(south)
        assert against(south) == [Reason.OTHER_PART] * 3
        again = part(server, "north")
        again.want(ALL, frozenset())
        async with running(again):
            await all_known(again)
            assert against(again) == [None] * 3
            assert await sends(again, 2)


@needs_server
async def test_what_is_given_back_is_taken_but_not_while_a_command_is_under_way(server):
    north, south = part(server, "north"), part(server, "south")
    north.want(ALL, frozenset())
    async with running(north):
        await all_known(north)
        south.want(ALL, frozenset())
        async with running(south):
            await all_known(south)
            async with north.sending(sleep_of(1)):
                north.want(frozenset({mac(3)}), frozenset({mac(1), mac(2)}))
                assert against(north) == [Reason.OTHER_PART, Reason.OTHER_PART, None]
                await eventually(lambda: south.stands_against(mac(2)) is None)
                assert south.stands_against(mac(1)) is Reason.OTHER_PART
            await eventually(lambda: south.stands_against(mac(1)) is None)
            assert await sends(south, 1)
            with pytest.raises(NotOursError):
                await sends(north, 1)
            assert south.stands_against(mac(3)) is Reason.OTHER_PART
            async with north.sending(sleep_of(3)):
                north.want(frozenset(), frozenset({mac(3)}))
                await eventually(lambda: north._turns[mac(3)]._waiters)
                north.want(frozenset({mac(3)}), frozenset())
            assert await sends(north, 3)  # after what waited for the end of that command


@needs_server
async def test_a_machine_that_is_not_known_here_is_not_let_go_of(server):
    north = part(server, "north")
    north.want(ALL, frozenset())
    async with running(north):
        await all_known(north)
    fresh = part(server, "north")  # with a database that knows nothing yet
    fresh.want(frozenset({mac(9)}), frozenset())
    async with running(fresh), bucket_of(server) as bucket:
        await eventually(lambda: fresh.stands_against(mac(9)) is None)
        fresh.want(frozenset(), frozenset({mac(9)}))
        async with asyncio.timeout(60):
            while (await bucket.find(claim_key(mac(9)))).value is not None:
                await asyncio.sleep(0.05)
        assert [(await bucket.find(claim_key(machine_id))).value for machine_id in ALL] == ["north"] * 3


@needs_server
async def test_a_claim_that_was_taken_behind_our_back_is_found_out_before_a_command_goes(server, monkeypatch):
    monkeypatch.setattr(module, "LOOK_EVERY_S", 1e9)
    north = part(server, "north")
    north.want(ALL, frozenset())
    async with running(north), bucket_of(server) as bucket:
        await all_known(north)
        found = await bucket.find(claim_key(mac(1)))
        await bucket.put(claim_key(mac(1)), "south", token=0, last=found.revision)
        assert north.stands_against(mac(1)) is None
        with pytest.raises(NotOursError, match="another part's"):
            await sends(north, 1)
        await eventually(lambda: north.stands_against(mac(1)) is Reason.OTHER_PART)
        found = await bucket.find(claim_key(mac(2)))
        await bucket.put(claim_key(mac(2)), "north", token=0, last=found.revision)  # its own standby
        assert await sends(north, 2)
        await bucket._keys.delete(claim_key(mac(3)))
        with pytest.raises(NotOursError):
            await sends(north, 3)
        await eventually(lambda: north.stands_against(mac(3)) is None)
        assert await sends(north, 3)


@needs_server
@pytest.mark.usefixtures("prompt")
async def test_without_servers_nothing_is_commanded(server, monkeypatch):
    monkeypatch.setattr("agent.federation.bucket.ANSWER_WITHIN_S", 1.0)
    north = part(server, "north")
    north.want(ALL, frozenset())
    async with running(north):
        await all_known(north)
        server.kill(0)
        with pytest.raises(NotOursError):
            await sends(north, 1)
        await eventually(lambda: against(north) == [Reason.UNCLAIMED] * 3)
        server.start(0)
        await eventually(lambda: against(north) == [None] * 3)


@needs_server
@pytest.mark.usefixtures("prompt")
async def test_a_server_that_is_behind_the_others_gives_nobody_a_machine_nor_takes_one(tmp_path, monkeypatch):
    """Three nodes; what one that is behind shows is what all of them showed before."""
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats") as server:
        await made(server)
        north, south = part(server, "north"), part(server, "south")
        south.want(frozenset({mac(1)}), frozenset())
        north.want(frozenset({mac(2)}), frozenset())
        async with running(north, south):
            await eventually(lambda: {mac(1)} == {*south._ours} and {mac(2)} == {*north._ours})
            async with asyncio.timeout(60):
                while len(past := await north._bucket.entries()) < 2:  # that of a server that is behind
                    await asyncio.sleep(0.05)
            south.want(frozenset(), frozenset({mac(1)}))
            north.want(ALL, frozenset())
            await eventually(lambda: against(north) == [None] * 3)
            looks = []

            async def behind(bucket, **_):
                looks.append(bucket)
                return past

            monkeypatch.setattr(Bucket, "entries", behind)
            north.want(frozenset(map(mac, (1, 2, 3, 4))), frozenset())
            await eventually(lambda: north.stands_against(mac(4)) is None)
            assert looks
            assert against(north) == [None] * 3
            assert await sends(north, 1)
            south.want(frozenset({mac(1), mac(3)}), frozenset())
            await eventually(lambda: south._bucket in looks)
            for number in (1, 3):  # it may take the first for its own
                with pytest.raises(NotOursError):
                    await sends(south, number)
            assert await sends(north, 1)
            assert await sends(north, 3)


@needs_server
@pytest.mark.parametrize("waits_for", ["key_value", "find"])
async def test_a_part_that_is_stopped_just_when_an_answer_comes_ends(server, monkeypatch, waits_for):
    """nats-py, before Python 3.12, returns the answer and swallows the cancellation."""
    owner = JetStreamContext if waits_for == "key_value" else Bucket
    ask = getattr(owner, waits_for)

    async def answered(*arguments):
        answer = await ask(*arguments)
        asyncio.current_task().cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return answer

    await made(server)
    monkeypatch.setattr(owner, waits_for, answered)
    north = part(server, "north")
    if waits_for == "find":
        north.want(ALL, frozenset())
    task = asyncio.create_task(north.run())
    done, _ = await asyncio.wait([task], timeout=60)
    monkeypatch.undo()
    task.cancel()
    assert done
    assert task.cancelled()


class Said(Whole):
    """Parts whose word is given."""

    def __init__(self, why=None):
        self.why = why
        self.wanted = None

    def want(self, wanted, spared):
        self.wanted = wanted, spared

    def stands_against(self, machine_id):
        return self.why


FLEET = '[fleet]\nservers = ["nats://127.66.0.9:4222"]\norg = "acme"\nsite = "north"\n'


@pytest.mark.parametrize(
    ("config", "own"),
    [
        ("[scan]\n", {1, 2, 3}),
        ('part_of = "denver"\n[scan]\n', {1, 2}),
        ('part_of = "denver"\nown_groups = ["b"]\n[scan]\n', {2}),
        ('part_of = "denver"\nown_groups = ["site"]\n[scan]\n', {1}),
    ],
)
def test_a_part_wants_the_machines_of_its_addresses_and_groups_and_those_that_it_ordered(config, own):
    machines = [machine(number, reading()) for number in (1, 2, 3)]
    first, second, third = (str(each.address) for each in machines)
    text = f'{FLEET}{config}addresses = ["{first}", "{second}"]\n[groups]\nb = ["{second}", "{third}"]\n'
    for each in machines:
        each.group = "site" if str(each.address) == first else "b"
    said = Said()
    partition = Partition(parse(text, source="x"), said)
    partition.mark(machines, [])
    assert said.wanted == ({mac(number) for number in own}, {mac(number) for number in {1, 2, 3} - own})
    partition.mark(machines, [mac(3)])
    assert mac(3) in said.wanted[0] - said.wanted[1]


async def test_a_machine_of_another_part_is_read_and_neither_proposed_nor_ordered(database):
    said = Said(Reason.OTHER_PART)
    async with site(database, FakeDriver(reading(hashrate_ths=20.0)), parts=said) as agent:
        agent.curtailer.policy = CurtailmentPolicy(mode=Mode.AUTO, rule=Rule.DEAD_BAND)
        shown = await agent.poll_once()
        assert shown.views[0].hashrate_ths == 20.0
        assert agent.reconciler.all() == []
        assert agent.curtailer.decisions()[mac(1)].reason is Reason.OTHER_PART
        (outcome,) = await agent.operations.curtail([mac(1)], "ann", dry_run=False)
        assert (outcome["accepted"], outcome["reason"]) == (False, "other_part")
        said.why = None
        await agent.poll_once()
        await eventually(lambda: agent.fakes[mac(1)].commands)
        assert said.wanted == ({mac(1)}, set())


async def test_a_claim_that_goes_between_decision_and_command_keeps_it_from_being_sent(database, lines):
    class Gone(Said):
        @asynccontextmanager
        async def sending(self, order):
            raise NotOursError("gone")
            yield

    async with site(database, FakeDriver(reading(hashrate_ths=20.0)), parts=Gone()) as agent:
        agent.curtailer.policy = CurtailmentPolicy(mode=Mode.AUTO, rule=Rule.DEAD_BAND)
        await agent.poll_once()
        await eventually(lambda: lines("event=order_not_sent"))
        assert agent.fakes[mac(1)].commands == []


@pytest.mark.parametrize(
    ("more", "problem"),
    [('own_groups = ["a"]\n', "give part_of"), ('part_of = "north"\n', "another name")],
)
def test_a_part_has_a_name_and_the_whole_another(more, problem):
    with pytest.raises(ConfigError, match=problem):
        parse(FLEET + more, source="x")


def test_a_site_without_parts_asks_nobody():
    assert isinstance(parts(parse(FLEET, source="x")), Whole)


PERMISSIONS = """
accounts {{ acme {{ jetstream: enabled, users: [ {{ nkey: {key}, permissions: {{
  publish: ["$KV.HASHCOST-acme-denver.>", "$JS.API.STREAM.*.KV_HASHCOST-acme-denver",
    "$JS.API.STREAM.MSG.GET.KV_HASHCOST-acme-denver", "$JS.API.CONSUMER.*.KV_HASHCOST-acme-denver",
    "$JS.API.CONSUMER.*.KV_HASHCOST-acme-denver.>",
    "$JS.FC.KV_HASHCOST-acme-denver.>"]
  subscribe: ["_INBOX_north.>"] }} }} ] }} }}
"""


@needs_server
async def test_the_permissions_that_are_documented_for_a_standby_are_enough_for_parts(tmp_path):
    documented = (ROOT / "docs" / "fleet.md").read_text()
    assert all(f'"{subject}"' in documented for subject in re.findall(r'"(\$[^"]*)"', PERMISSIONS))
    (tmp_path / "nats").mkdir()
    public, seed_file = key(tmp_path, "north")
    with Cluster(tmp_path / "nats", nodes=1, extra=PERMISSIONS.format(key=public)) as server:
        north = part(server, "north", nkey_file=seed_file)
        north.want(ALL, frozenset())
        async with running(north):
            await all_known(north)
            assert await sends(north, 1)

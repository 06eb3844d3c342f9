"""The lease that agents of one site have on its machines, on a real server: one commands, the other can go on from what
the first one knew."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest

from agent.config import ConfigError, parse
from agent.federation import lease as module
from agent.federation.bucket import Bucket, Entry, Tenant, left_by, orders_in, orders_key, settings_in
from agent.federation.connection import Servers, connected
from agent.federation.lease import Lease
from agent.membership import lease
from agent.orders import OrderState
from agent.simulated.nats import Cluster, server_program
from agent.store import Store
from agent.tenure import Inheritance, NotOursError
from tests.agent.builders import NOW, eventually, mac, machine, order, reading, running, save
from tests.agent.processes import ROOT, child_environment
from tests.agent.test_uplink import key

pytestmark = [
    # nats-py leaves sockets of servers that went away to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(server_program() is None, reason="needs nats-server"),
]


class NoAlarm:
    """A process of tests is not ended; after how long it would have been is kept."""

    def __init__(self):
        self.within_s, self.settings_s = None, []

    def set(self, within_s):
        self.within_s = within_s
        self.settings_s.append(within_s)

    def clear(self):
        self.within_s = None


class Clock:
    """Time that passes when a test says so: a host that stalls loses no lease."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        self.now_s += 1e-6  # no two moments are the same
        return self.now_s

    def forward(self, seconds):
        self.now_s += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Nothing is renewed but when it is asked for, and whatever is asked of a server may take its time."""
    monkeypatch.setattr(module, "RENEW_EVERY_S", 60.0)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.05)
    for name in ("lease.CONFIRMED_WITHIN_S", "lease.GIVEN_BACK_WITHIN_S", "bucket.ANSWER_WITHIN_S"):
        monkeypatch.setattr(f"agent.federation.{name}", 20.0)


@pytest.fixture
def short(monkeypatch):
    """A lease that is renewed often, and for whose end commands are broken off soon."""
    monkeypatch.setattr(module, "RENEW_EVERY_S", 0.1)
    monkeypatch.setattr(module, "BREAK_OFF_S", module.VALID_S - 0.5)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats", nodes=1) as running:
        yield running


def ordered(number, **changes):
    return order(machine_id=mac(number), **changes)


def claimant(server, name, clock, site="denver", **login):
    servers = Servers(addresses=server.urls, name="denver", **login)
    made = Lease(
        servers, org="acme", site=site, agent=name, replicas=1, alarm=NoAlarm(), changed=lambda: None, clock=clock
    )  # fmt: skip
    made.begin([], {}, token=0)
    return made


async def takes(each):
    """Until it has the machines; the time until it may take them passes."""

    def has():
        if each.stands_by:
            each._clock.forward(module.TAKE_AFTER_S)
        return not each.stands_by

    await eventually(has)


async def owns(each, orders=(), settings=None):
    """The same, and an agent that goes on from there."""
    await takes(each)
    each.begin(orders, settings or {}, token=each._token)
    if not each.may_command:  # it took them while time passed
        each._poke.set()
    await eventually(lambda: each.may_command)


async def written(each):
    await eventually(lambda: all(map(each._is_written, [*each._orders, *each._settings])))


@asynccontextmanager
async def bucket_of(server):
    async with connected(Servers(addresses=server.urls, name="x")) as client:
        yield await Bucket.open(client, org="acme", site="denver", replicas=1)


@contextmanager
def stopped(server):
    """It takes nothing and says nothing."""
    server.send(0, signal.SIGSTOP)
    try:
        yield
    finally:
        server.send(0, signal.SIGCONT)


async def test_one_has_it_and_the_other_stands_by(server, clock):
    first, second = claimant(server, "a", clock), claimant(server, "b", clock)
    async with running(first):
        await owns(first)
        async with running(second):
            await eventually(lambda: second.as_data()["holder"] == "a")
            async with first.sending(ordered(1)):
                pass
            with pytest.raises(NotOursError):
                async with second.sending(ordered(1)):
                    raise AssertionError("it sends")
    assert (first.stands_by, second.stands_by) == (False, True)


@pytest.mark.usefixtures("short")
async def test_who_takes_over_goes_on_from_what_the_other_knew(server, clock):
    first, second = claimant(server, "a", clock), claimant(server, "b", clock)
    asleep = ordered(1, state=OrderState.CONFIRMED, order_id=7)
    going = ordered(2, state=OrderState.APPROVED, order_id=9)
    async with running(first) as (task,):
        await owns(first, [asleep], {"held": "yes"})
        await written(first)
        async with running(second):

            async def send():
                async with first.sending(replace(going, state=OrderState.DISPATCHING)):
                    task.cancel()  # in its midst, and it gives nothing back
                    await asyncio.Event().wait()

            with pytest.raises(NotOursError):
                await send()
            await takes(second)
            left = second.inheritance
            assert not second.may_command  # before that has been taken over
    found = {each.order_id: each.state for each in left.orders}
    assert found == {7: OrderState.CONFIRMED, 9: OrderState.DISPATCHING}
    assert left.settings == {"held": "yes"}
    assert left.first_order_id == 10


async def test_one_that_ends_gives_it_back_and_one_that_comes_again_is_not_told_what_it_knows(server, clock):
    first, second = claimant(server, "a", clock), claimant(server, "b", clock)
    async with running(first):
        await owns(first, [ordered(1, order_id=3)])
    async with running(second):
        await eventually(lambda: not second.stands_by)  # no time has passed
        assert [each.order_id for each in second.inheritance.orders] == [3]
        second.begin([], {}, token=second._token)
        token = second._token
        async with bucket_of(server) as bucket:  # as if it had been killed
            killed = (await bucket.lease()).tenant
    async with bucket_of(server) as bucket:
        await bucket.claim(replace(killed, token=token), last=(await bucket.lease()).revision)
    again = claimant(server, "b", clock)
    again.begin([], {}, token=token)
    async with running(again):
        await eventually(lambda: not again.stands_by)
    assert again.inheritance == Inheritance(token=again._token)


@pytest.mark.usefixtures("short")
async def test_an_owner_that_cannot_renew_stops_before_it_can_be_taken_and_goes_on_when_it_can(server, clock):
    first = claimant(server, "a", clock)
    async with running(first):
        await owns(first)
        token = first._token

        async def send():
            async with first.sending(ordered(1)):
                server.send(0, signal.SIGSTOP)
                await asyncio.Event().wait()

        try:
            with pytest.raises(NotOursError, match="under way"):
                await send()
            assert first._alarm.within_s is None
            assert 0 < max(first._alarm.settings_s) <= module.VALID_S < module.TAKE_AFTER_S
            clock.forward(module.VALID_S)
            assert not first.may_command
            assert not first.stands_by
            with pytest.raises(NotOursError):
                async with first.sending(ordered(1)):
                    raise AssertionError("it sends")
        finally:
            server.send(0, signal.SIGCONT)
        await eventually(lambda: first.may_command)
        assert first._token == token
        async with first.sending(ordered(1)):
            pass


async def test_an_owner_that_was_overtaken_finds_out_before_it_sends(server, clock):
    first = claimant(server, "a", clock)
    told = []
    first._changed = lambda: told.append(first.stands_by)
    async with running(first), bucket_of(server) as bucket:
        await owns(first)
        seen = await bucket.lease()
        await bucket.claim(Tenant(agent="b", instance="other"), last=seen.revision)
        assert first.may_command  # as far as it knows: its next renewal is the one that the command asks for
        with pytest.raises(NotOursError):
            async with first.sending(ordered(1)):
                raise AssertionError("it sends")
        await eventually(lambda: first.stands_by)
        assert first._alarm.settings_s == []  # nothing went that the process would have to be ended for
    assert told == [False, True]


async def left(server):
    """What the next agent would find."""
    async with bucket_of(server) as bucket:
        seen = await bucket.lease()
        return seen.tenant, await bucket.entries(until=seen.revision)


async def test_what_was_not_sent_after_all_is_left_as_it_was(server, clock):
    first = claimant(server, "a", clock)
    rejected = ordered(1, order_id=7, state=OrderState.EXPIRED, settled_at=NOW)
    async with running(first):
        await owns(first, [rejected])
        with pytest.raises(LookupError):
            async with first.sending(replace(rejected, state=OrderState.DISPATCHING, settled_at=None)):
                raise LookupError("somebody rejected it")
        await written(first)
        _, found = await left(server)
    assert orders_in(found) == [rejected]


async def test_it_is_given_back_with_all_that_the_next_one_has_to_know(server, clock):
    first = claimant(server, "a", clock)
    orders = [ordered(number, order_id=number) for number in range(1, 3 * module.WRITES_AT_ONCE)]
    async with running(first):
        await takes(first)
        first.begin(orders, {"held": "yes"}, token=first._token)
    tenant, found = await left(server)
    assert tenant.released
    assert len(orders_in(found)) == len(orders)
    assert settings_in(found) == {"held": "yes"}


async def test_it_is_said_whether_the_next_one_would_know_of_a_hold(server, clock, monkeypatch):
    first = claimant(server, "a", clock)
    async with running(first):
        await owns(first)
        first.keep_setting("held", "yes")
        assert await first.told("held")
        _, found = await left(server)
        assert settings_in(found) == {"held": "yes"}
        monkeypatch.setattr(module, "CONFIRMED_WITHIN_S", 0.5)
        with stopped(server):
            first.keep_setting("held", "no")
            assert not await first.told("held")


async def test_what_is_still_on_its_way_is_not_known_yet(server, clock, monkeypatch):
    first = claimant(server, "a", clock)
    async with running(first):
        await owns(first)
        put = Bucket.put
        asked, may_answer = asyncio.Event(), asyncio.Event()

        async def slowly(bucket, *arguments, **more):
            asked.set()
            await may_answer.wait()
            return await put(bucket, *arguments, **more)

        monkeypatch.setattr(Bucket, "put", slowly)
        first.keep_setting("held", "yes")
        await asked.wait()
        monkeypatch.setattr(module, "CONFIRMED_WITHIN_S", 0.1)
        assert not await first.told("held")
        may_answer.set()
        monkeypatch.setattr(module, "CONFIRMED_WITHIN_S", 60.0)
        assert await first.told("held")


class Behind:
    """The keys as a server shows them that has not heard of the last ones yet, and then does."""

    def __init__(self):
        old, new = ({"token": 2, "value": [order]} for order in ("old", "new"))
        self._told = [
            self._entry("orders.01", 3, old), self._entry("lease", 4, {}), None,
            self._entry("orders.01", 6, new), self._entry("lease", 7, {}),
        ]  # fmt: skip

    @staticmethod
    def _entry(key, revision, value):
        return SimpleNamespace(key=key, revision=revision, value=json.dumps(value), operation=None)

    async def watchall(self):
        return self

    async def updates(self, timeout):
        return self._told.pop(0)

    async def stop(self):
        pass


async def test_a_server_that_is_behind_is_waited_for():
    (found,) = await Bucket(Behind()).entries(until=7)
    assert (found.revision, found.value) == (6, ["new"])


def test_what_a_relieved_agent_wrote_is_nothing():
    def entry(key, revision, token):
        return Entry(key=key, revision=revision, token=token, value=[])

    found = [entry("old", 3, 1), entry("found", 9, 5), entry("late", 12, 5), entry("own", 14, 10)]
    assert [each.key for each in left_by(found, 10)] == ["old", "found", "own"]


def test_a_stopped_process_is_ended_by_the_kernel_before_it_goes_on(tmp_path):
    code = (
        "import sys, time\n"
        "from agent.federation.lease import KernelAlarm\n"
        "KernelAlarm().set(1.0)\n"
        "print('set', flush=True)\n"
        "sys.stdin.readline()\n"
        "print('went on', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=child_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"set\n"
    process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:  # the time that it is stopped is what is tested
        time.sleep(0.1)
    with suppress(BrokenPipeError):  # where we were the ones who stood still it has ended by now
        process.stdin.write(b"go on\n")
        process.stdin.flush()
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (-signal.SIGALRM, b"")


def test_orders_that_were_left_stand_and_of_our_own_none_else(tmp_path):
    with Store(tmp_path / "h.db") as store:
        save(store, machine(1, reading()), machine(2, reading()), machine(3, reading()))
        own = store.create_order(ordered(1, state=OrderState.APPROVED))
        kept = store.create_order(ordered(2, state=OrderState.APPROVED))
        theirs = ordered(2, state=OrderState.DISPATCHING, order_id=kept.order_id, dispatched_at=NOW)
        unknown = ordered(9, state=OrderState.DISPATCHED, order_id=41)
        later = ordered(3, state=OrderState.CONFIRMED, order_id=40, confirmed_at=NOW, settled_at=NOW)
        left = Inheritance(
            token=5, orders=[theirs, unknown, later], settings={"held": "yes"}, first_order_id=100
        )
        store.inherit(left)
        assert store.adopt() == ([theirs, later], [unknown])
        found = {each.order_id: each.state for each in store.load_orders(NOW)}
        assert found == {
            theirs.order_id: OrderState.DISPATCHING,
            40: OrderState.CONFIRMED,
            own.order_id: OrderState.EXPIRED,
        }
        assert (store.setting("held"), store.setting("tenure")) == ("yes", "5")
        assert store.create_order(ordered(1)).order_id == 100
        store.inherit(Inheritance(token=6))
        assert store.adopt() == ([], [unknown])
        assert len(store.load_orders(NOW)) == 4
        save(store, machine(9, reading()))
        assert store.adopt() == ([unknown], [])
        assert store.adopt() == ([], [])
        assert len(store.load_orders(NOW)) == 5
    with Store(tmp_path / "h.db") as store:
        store.save_setting("tenure", "6")
        assert store.create_order(ordered(2)) is None


def test_what_waits_for_a_machine_is_forgotten_with_an_agent_in_between_that_brought_it_to_its_end(tmp_path):
    with Store(tmp_path / "h.db") as store:
        store.inherit(Inheritance(token=5, orders=[ordered(9)]))
        store.inherit(Inheritance(token=9, orders=[]))
        save(store, machine(9, reading()))
        assert store.adopt() == ([], [])


def test_a_lease_is_for_those_who_stand_by_for_one_another():
    fleet = '[fleet]\nservers = ["nats://127.66.0.9:4222"]\norg = "acme"\n'
    assert lease(parse(fleet + 'site = "denver"\n', source="x"), lambda: None) is None
    with pytest.raises(ConfigError, match="agent: give site"):
        parse(fleet + 'agent = "a"\n', source="x")


def test_a_machine_of_any_name_has_a_key():
    assert orders_key(mac(1)) != orders_key(mac(2))
    assert orders_key("serial: ä/*>").isascii()


PERMISSIONS = """
accounts {{ acme {{ jetstream: enabled, users: [ {{ nkey: {key}, permissions: {{
  publish: ["$KV.HASHCOST-acme-denver.>", "$JS.API.STREAM.*.KV_HASHCOST-acme-denver",
    "$JS.API.STREAM.MSG.GET.KV_HASHCOST-acme-denver", "$JS.API.CONSUMER.*.KV_HASHCOST-acme-denver",
    "$JS.API.CONSUMER.*.KV_HASHCOST-acme-denver.>",
    "$JS.FC.KV_HASHCOST-acme-denver.>"]
  subscribe: ["_INBOX_denver.>"] }} }} ] }} }}
"""


def test_the_permissions_are_as_documented():
    documented = (ROOT / "docs" / "fleet.md").read_text()
    assert all(f'"{subject}"' in documented for subject in re.findall(r'"(\$[^"]*)"', PERMISSIONS))


async def test_the_documented_permissions_are_enough_for_the_sites_own_lease_and_no_other(
    tmp_path, clock, lines
):
    (tmp_path / "nats").mkdir()
    public, seed_file = key(tmp_path, "denver")
    with Cluster(tmp_path / "nats", nodes=1, extra=PERMISSIONS.format(key=public)) as server:
        first, second = (
            claimant(server, "a", clock, site, nkey_file=seed_file) for site in ("denver", "tulsa")
        )
        async with running(first, second):
            await owns(first, [ordered(1)])
            await written(first)
            async with first.sending(ordered(1)):
                pass
            await eventually(lambda: any("acme-tulsa" in line for line in lines("event=nats_error")))
        async with running(again := claimant(server, "b", clock, nkey_file=seed_file)):
            await eventually(lambda: not again.stands_by)
            assert len(again.inheritance.orders) == 1
    assert second.stands_by

"""Two agents of one site, real processes on a real cluster: one stands by, and the one that commands is stopped in the
midst of sending; or each has a part of the site, and they know some of the machines both.
The witness is the simulator's own log of the commands that it received."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from time import monotonic

import pytest

from agent.control import ControlError, call
from agent.simulated.nats import Cluster, server_program
from drivers.reading import RunState
from drivers.simulator.control import SiteControl
from tests.site.conftest import CHEAP, DEAR, writes
from tests.site.test_crash import AGENT, ROOT, orders_in, repeated

pytestmark = [
    pytest.mark.skipif(server_program() is None, reason="needs nats-server"),
    pytest.mark.timeout(500),
]
MACHINES = 12
SPEED = 40.0
CONFIG = """
scan.addresses = {targets}
poll.interval_s = 1
poll.deadline_s = 1
power.price_usd_per_kwh = {price}
[curtailment]
mode = "auto"
switching_cost_usd = 0
min_on_s = 0
min_off_s = 0
batch_machines = {batch}
ramp_kw_per_min = 100000
[fleet]
servers = {servers}
org = "acme"
stream_replicas = 3
"""
STANDBY = 'site = "denver"\nagent = "{name}"\n'
PART = 'part_of = "denver"\nsite = "{name}"\n'
FASTER = 3.0
"""The times of the lease are so much shorter, but for how long it is watched before it is taken: a host that stands
still for some seconds gives no machines to anybody else."""
HURRIED = f"""
from functools import partial
from agent import orders, service
from agent.federation import lease
for name in ("RENEW_EVERY_S", "LOOK_EVERY_S", "VALID_S", "BREAK_OFF_S"):
    setattr(lease, name, getattr(lease, name) / {FASTER})
service.Patience = partial(orders.Patience, ramping=20.0)  # the site's time goes on while the host stands still
"""
MORE_THAN_A_MINUTE_S = 65.0 / FASTER


class Agent:
    """One of the site's agents: a process, its files and what it has logged."""

    def __init__(self, directory, name, ready, servers):
        self.name, self.ready, self.servers = name, ready, servers
        self.targets, self.batch, self.more = ready["scan_targets"], 1, STANDBY
        self.home = directory / name
        self.home.mkdir()
        self.database, self.socket = self.home / "hashcost.db", self.home / "agent.sock"
        self.lines = []
        self.came = asyncio.Event()
        self.process = self.reading = None

    async def start(self, price):
        self.price(price)
        ready = self.ready
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HURRIED + AGENT,
            ready["sim_utc"], str(ready["monotonic"]), str(ready["speed"]), "run",
            "--config", str(self.home / "config.toml"), "--database", str(self.database), "--socket", str(self.socket),
            stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.reading = asyncio.create_task(self.read(self.process))

    def price(self, price):
        text = CONFIG.format(
            targets=json.dumps(self.targets),
            price=price,
            batch=self.batch,
            servers=json.dumps(self.servers),
        ) + self.more.format(name=self.name)
        (self.home / "config.toml").write_text(text)

    async def read(self, process):
        while line := await process.stderr.readline():
            assert b"Traceback" not in line, (await process.stderr.read(8000)).decode()
            self.lines.append(line.decode())
            self.came.set()

    async def said(self, words, times=1, after=0):
        """Wait for a line with these words; they came after so many lines."""
        while sum(words in line for line in self.lines[after:]) < times:
            assert not self.reading.done(), "".join(self.lines[-20:])
            self.came.clear()
            await self.came.wait()

    async def end(self):
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.kill()
            await self.process.wait()
            await self.reading

    def tell(self, number):
        self.process.send_signal(number)


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "nats").mkdir()
    with Cluster(tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def site(cluster, tmp_path):
    socket = tmp_path / "control.sock"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drivers.simulator", "--machines", str(MACHINES), "--speed", str(SPEED),
        "--network", "127.95.0.0/16", "--control", str(socket),
        stdin=PIPE, stdout=PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        ready = json.loads(await process.stdout.readline())
        async with SiteControl(socket) as control:
            agents = [Agent(tmp_path, name, ready, list(cluster.urls)) for name in ("a", "b")]
            try:
                yield control, *agents
            finally:
                for each in agents:
                    await each.end()
                    # seen when the test fails
                    sys.stdout.write(f"--- {each.name}\n{''.join(each.lines[-150:])}")
    finally:
        process.kill()
        await process.communicate()


async def commanded(control):
    """Every command that changes something, by machine, as the machines have it."""
    return {truth.mac: writes(truth) for truth in await control.all_truth()}


async def all_are(control, state):
    while {truth.run_state for truth in await control.all_truth()} != {state}:
        await asyncio.sleep(0.5)


async def has_settled(agent, standing):
    """Until no order is open, and so many machines sleep on one."""
    while True:
        orders = await asyncio.to_thread(orders_in, agent.database)
        if (
            not any(order.is_open for order in orders)
            and sum(order.is_standing for order in orders) == standing
        ):
            return
        await asyncio.sleep(0.5)


async def stopped_amid_a_command_and_relieved(control, owner, standby):
    """The owner is stopped as soon as it has written down that it sends one more; what it sends when it goes on would
    be the only thing that is sent, because its successor has been told to hold."""
    began, waited = len(owner.lines), len(standby.lines)
    await owner.said("state=dispatching", after=began)
    owner.tell(signal.SIGSTOP)
    stopped_s = monotonic()
    await standby.said("event=lease_taken", after=waited)
    await standby.said("stands_by=False", after=waited)
    await told(standby, "hold")
    sending = True
    while sending:  # what had begun before the hold
        states = Counter(order.state for order in await asyncio.to_thread(orders_in, standby.database))
        sending = states["dispatching"] > 0
        await asyncio.sleep(0.2)
    before = await commanded(control)
    assert any(words == [] for words in before.values()), "nothing is left to be sent"
    while monotonic() - stopped_s < MORE_THAN_A_MINUTE_S:  # the time that it is stopped is what is tested
        await asyncio.sleep(0.1)
    owner.tell(signal.SIGCONT)
    if await relieved(owner, began) == -signal.SIGALRM:
        await owner.reading
        await owner.start(DEAR)
    await owner.said("stands_by=True", after=began)
    status = await told(owner, "status")
    assert (status["stands_by"], status["may_command"]) == (True, False)
    assert await commanded(control) == before
    await told(standby, "resume")


async def relieved(owner, began):
    """It was ended by the kernel, or has found out; the process's status if it has ended."""
    ended = asyncio.create_task(owner.process.wait())
    found_out = asyncio.create_task(owner.said("event=lease_lost", after=began))
    done, waiting = await asyncio.wait({ended, found_out}, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
    return ended.result() if ended in done else None


async def told(agent, command, **arguments):
    """An agent that has just begun takes a moment to listen."""
    while True:
        with contextlib.suppress(ControlError):
            return await call(agent.socket, command, **arguments)
        await asyncio.sleep(0.1)


async def test_an_agent_that_was_stopped_and_relieved_commands_nothing(site):
    control, first, second = site
    before = {truth.mac: truth for truth in await control.all_truth()}
    await first.start(DEAR)
    await first.said("event=lease_taken")
    await second.start(DEAR)
    await second.said("event=scanned")
    await stopped_amid_a_command_and_relieved(control, first, second)
    await stopped_amid_a_command_and_relieved(control, second, first)
    for each in (first, second):  # the others need not go one by one
        each.batch = MACHINES
        each.price(DEAR)
        each.tell(signal.SIGHUP)
    await has_settled(first, MACHINES)
    assert {truth.run_state for truth in await control.all_truth()} == {RunState.ASLEEP}
    for each in (first, second):
        each.price(CHEAP)
        each.tell(signal.SIGHUP)
    await has_settled(first, 0)
    await all_are(control, RunState.MINING)
    truths = await control.all_truth()
    for truth in truths:
        assert repeated(truth) == []
        assert writes(truth)[:1] + writes(truth)[-1:] == ["sleep", "wake"]
        assert len(writes(truth)) <= 3  # of one that may have been sent when its agent was stopped
        assert (truth.power_mode, truth.pools) == (before[truth.mac].power_mode, before[truth.mac].pools)
    assert sum(len(writes(truth)) for truth in truths) <= 2 * MACHINES + 2


async def test_machines_that_a_successor_has_not_found_yet_are_its_own_to_wake_once_it_has(site):
    control, first, second = site
    addresses = sorted(truth.address for truth in await control.all_truth())
    second.targets = addresses[:4]
    for each in site[1:]:
        each.batch = MACHINES
    await first.start(DEAR)
    await first.said("event=lease_taken")
    await second.start(DEAR)
    await second.said("event=scanned")
    await has_settled(first, MACHINES)
    first.tell(signal.SIGKILL)
    await second.said("event=order_of_unknown_machine", times=MACHINES - 4)
    second.targets = addresses
    second.price(DEAR)
    second.tell(signal.SIGHUP)
    await has_settled(second, MACHINES)
    assert set(map(tuple, (await commanded(control)).values())) == {("sleep",)}
    machines = sorted(truth.mac for truth in await control.all_truth())
    while True:
        tried = await told(second, "restore", machines=machines, dry_run=True)
        if sum(each["accepted"] for each in tried["machines"]) == MACHINES:
            break
        await asyncio.sleep(0.2)
    await told(second, "restore", machines=machines)
    await all_are(control, RunState.MINING)
    await has_settled(second, 0)
    assert set(map(tuple, (await commanded(control)).values())) == {("sleep", "wake")}


async def test_parts_that_know_the_same_machines_command_each_once_and_one_that_was_stopped_has_what_it_had(
    site,
):
    control, *parts = site
    addresses = sorted(truth.address for truth in await control.all_truth())
    for each, known in zip(parts, (addresses[:9], addresses[3:]), strict=True):
        each.targets, each.batch, each.more = known, MACHINES, PART
        await each.start(CHEAP)
    for each in parts:
        await each.said("event=scanned")
        each.price(DEAR)
    first, second = parts
    for each in parts:  # both would have all that they know sleep in the same moment
        each.tell(signal.SIGHUP)
    await all_are(control, RunState.ASLEEP)
    while len((had := await asleep_on(first)) | await asleep_on(second)) < MACHINES:
        await asyncio.sleep(0.5)
    assert had.isdisjoint(await asleep_on(second))
    assert set(map(tuple, (await commanded(control)).values())) == {("sleep",)}
    first.tell(signal.SIGSTOP)
    for each in parts:
        each.price(CHEAP)
    second.tell(signal.SIGHUP)
    await has_settled(second, 0)
    awake = {truth.mac for truth in await control.all_truth() if writes(truth) == ["sleep", "wake"]}
    assert awake == {truth.mac for truth in await control.all_truth()} - had
    first.tell(signal.SIGCONT)
    first.tell(signal.SIGHUP)
    await all_are(control, RunState.MINING)
    assert set(map(tuple, (await commanded(control)).values())) == {("sleep", "wake")}


async def asleep_on(agent):
    """The machines that sleep on an order of this agent."""
    orders = await asyncio.to_thread(orders_in, agent.database)
    return {str(order.machine_id) for order in orders if order.is_standing}
